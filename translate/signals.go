package translate

import (
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// signalNumbers are Linux's numbers on the architectures Docker runs on; 32 and 33
// are reserved for the C library and have no name.
var signalNumbers = map[int]runtimeapi.Signal{
	1: runtimeapi.Signal_SIGNAL_SIGHUP, 2: runtimeapi.Signal_SIGNAL_SIGINT, 3: runtimeapi.Signal_SIGNAL_SIGQUIT,
	4: runtimeapi.Signal_SIGNAL_SIGILL, 5: runtimeapi.Signal_SIGNAL_SIGTRAP, 6: runtimeapi.Signal_SIGNAL_SIGABRT,
	7: runtimeapi.Signal_SIGNAL_SIGBUS, 8: runtimeapi.Signal_SIGNAL_SIGFPE, 9: runtimeapi.Signal_SIGNAL_SIGKILL,
	10: runtimeapi.Signal_SIGNAL_SIGUSR1, 11: runtimeapi.Signal_SIGNAL_SIGSEGV, 12: runtimeapi.Signal_SIGNAL_SIGUSR2,
	13: runtimeapi.Signal_SIGNAL_SIGPIPE, 14: runtimeapi.Signal_SIGNAL_SIGALRM, 15: runtimeapi.Signal_SIGNAL_SIGTERM,
	16: runtimeapi.Signal_SIGNAL_SIGSTKFLT, 17: runtimeapi.Signal_SIGNAL_SIGCHLD, 18: runtimeapi.Signal_SIGNAL_SIGCONT,
	19: runtimeapi.Signal_SIGNAL_SIGSTOP, 20: runtimeapi.Signal_SIGNAL_SIGTSTP, 21: runtimeapi.Signal_SIGNAL_SIGTTIN,
	22: runtimeapi.Signal_SIGNAL_SIGTTOU, 23: runtimeapi.Signal_SIGNAL_SIGURG, 24: runtimeapi.Signal_SIGNAL_SIGXCPU,
	25: runtimeapi.Signal_SIGNAL_SIGXFSZ, 26: runtimeapi.Signal_SIGNAL_SIGVTALRM, 27: runtimeapi.Signal_SIGNAL_SIGPROF,
	28: runtimeapi.Signal_SIGNAL_SIGWINCH, 29: runtimeapi.Signal_SIGNAL_SIGIO, 30: runtimeapi.Signal_SIGNAL_SIGPWR,
	31: runtimeapi.Signal_SIGNAL_SIGSYS,
}

const (
	signalEnumPrefix = "SIGNAL_"
	sigRTMin         = 34
	sigRTMax         = 64
)

// DockerSignal returns the signal's name in Docker ("SIGTERM", "SIGRTMIN+3"). For
// the runtime default it returns "": the image's stop signal, else SIGTERM.
func DockerSignal(s runtimeapi.Signal) string {
	name, ok := runtimeapi.Signal_name[int32(s)]
	if !ok || s == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return ""
	}
	name = strings.TrimPrefix(name, signalEnumPrefix)
	name = strings.Replace(name, "PLUS", "+", 1)
	return strings.Replace(name, "MINUS", "-", 1)
}

// containerStopSignal returns the requested signal, or "" for the image's. If the
// image names an invalid one it returns SIGTERM, as Docker would send only SIGKILL.
func containerStopSignal(asked runtimeapi.Signal, image string) string {
	if asked == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT && CRISignal(image) == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return "SIGTERM"
	}
	return DockerSignal(asked)
}

// CRISignal returns the CRI signal for a Docker stop signal: a name with or
// without "SIG", in any case, or a number. "" is SIGTERM, which Docker then sends.
// For an invalid signal it returns the runtime default.
func CRISignal(docker string) runtimeapi.Signal {
	name := strings.ToUpper(strings.TrimSpace(docker))
	if name == "" {
		return runtimeapi.Signal_SIGNAL_SIGTERM
	}
	if n, err := strconv.Atoi(name); err == nil {
		return signalOfNumber(n)
	}
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	name = strings.Replace(name, "+", "PLUS", 1)
	name = strings.Replace(name, "-", "MINUS", 1)
	switch name {
	case "SIGRTMINPLUS0":
		name = "SIGRTMIN"
	case "SIGRTMAXMINUS0":
		name = "SIGRTMAX"
	}
	return runtimeapi.Signal(runtimeapi.Signal_value[signalEnumPrefix+name])
}

func signalOfNumber(n int) runtimeapi.Signal {
	if s, ok := signalNumbers[n]; ok {
		return s
	}
	if n < sigRTMin || n > sigRTMax {
		return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
	}
	// The enumeration lists the real-time signals in order, without a gap.
	return runtimeapi.Signal_SIGNAL_SIGRTMIN + runtimeapi.Signal(n-sigRTMin)
}
