package translate

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestContainerStopSignal(t *testing.T) {
	for _, tc := range []struct {
		asked       runtimeapi.Signal
		image, want string
	}{
		{image: "", want: ""},
		{image: "SIGQUIT", want: ""},
		{image: "37", want: ""},
		{image: "SIGHOSTILE", want: "SIGTERM"},
		{image: "999", want: "SIGTERM"},
		{image: "-1", want: "SIGTERM"},
		{image: "0", want: "SIGTERM"},
		{image: "9; reboot", want: "SIGTERM"},
		{asked: runtimeapi.Signal_SIGNAL_SIGUSR1, image: "SIGHOSTILE", want: "SIGUSR1"},
	} {
		if got := containerStopSignal(tc.asked, tc.image); got != tc.want {
			t.Errorf("asked for %v, image %q: %q, want %q", tc.asked, tc.image, got, tc.want)
		}
	}
}
