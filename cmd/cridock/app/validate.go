package app

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/cridock/cridock/translate"
)

// Validate checks what can be checked without touching the system. The error names
// each setting that is invalid.
func (o *Options) Validate() error {
	return errors.Join(
		o.validateSocket(), o.validateNetwork(), o.validateLogs(), o.validateStreaming(),
		o.validateMetrics(), o.validateTracing(), o.validateUlimits(), o.validateBaseSpec(), o.validateBlockIO(), o.validateRDTClasses(), o.validateSwitches(), o.validateImages(), o.validateNRI(),
	)
}

func (o *Options) validateSocket() error {
	_, err := o.socketMode()
	if o.SocketLink != "" && !filepath.IsAbs(o.SocketLink) {
		err = errors.Join(err, fmt.Errorf("socket-link %q: want an absolute path", o.SocketLink))
	}
	return err
}

// socketMode returns the mode of the CRI's socket. Whoever can write to it is as
// good as root, so others may not.
func (o *Options) socketMode() (fs.FileMode, error) {
	mode, err := strconv.ParseUint(o.SocketMode, 8, 32)
	if err != nil || mode&^0o777 != 0 {
		return 0, fmt.Errorf("socket-mode %q: want an octal mode, such as 0660", o.SocketMode)
	}
	if mode&0o007 != 0 {
		return 0, fmt.Errorf("socket-mode %q: others would have root's power over the node; set socket-group instead", o.SocketMode)
	}
	return fs.FileMode(mode), nil
}

func (o *Options) validateNetwork() error {
	switch o.NetworkPlugin {
	case pluginCNI:
		return nil
	case pluginDocker, "", pluginNoop:
		if o.DockerNetwork == "none" || o.DockerNetwork == "host" || o.DockerNetwork == "" {
			return fmt.Errorf("docker-network %q: want a network that assigns addresses to containers", o.DockerNetwork)
		}
		return nil
	case "kubenet":
		return fmt.Errorf("network-plugin kubenet: not supported; drain the node, set network-plugin to cni, and give cni-conf-template " +
			"a configuration of the bridge plugin, which gets the node's pod CIDR as kubenet did")
	default:
		return fmt.Errorf("network-plugin %q: want cni or docker", o.NetworkPlugin)
	}
}

// validateUlimits accepts each limit once: of two, Docker would choose one.
func (o *Options) validateUlimits() error {
	var err error
	seen := map[string]bool{}
	for _, text := range o.DefaultUlimits {
		limit, perr := units.ParseUlimit(text)
		switch {
		case perr != nil:
			err = errors.Join(err, fmt.Errorf("default-ulimits %q: %w", text, perr))
		case limit.Soft < -1 || limit.Hard < -1:
			err = errors.Join(err, fmt.Errorf("default-ulimits %q: want -1 (unlimited) or more", text))
		case seen[limit.Name]:
			err = errors.Join(err, fmt.Errorf("default-ulimits %q: %s is listed twice", text, limit.Name))
		default:
			seen[limit.Name] = true
		}
	}
	return err
}

// ulimits returns the default-ulimits, which were validated.
func (o *Options) ulimits() []*units.Ulimit {
	var out []*units.Ulimit
	for _, text := range o.DefaultUlimits {
		if limit, err := units.ParseUlimit(text); err == nil {
			out = append(out, limit)
		}
	}
	return out
}

func (o *Options) validateRDTClasses() error {
	var err error
	for _, name := range o.RDTClasses {
		if nameErr := translate.ValidateRDTClass(name); nameErr != nil {
			err = errors.Join(err, fmt.Errorf("rdt-classes: %w", nameErr))
		}
	}
	return err
}

func (o *Options) validateLogs() error {
	var errs []error
	if !filepath.IsAbs(o.PodLogsDir) || filepath.Clean(o.PodLogsDir) == "/" {
		errs = append(errs, fmt.Errorf("pod-logs-dir %q: want the absolute path of a directory", o.PodLogsDir))
	}
	if o.LogMode != "cri" && o.LogMode != "symlink" {
		errs = append(errs, fmt.Errorf("container-log-mode %q: want cri or symlink", o.LogMode))
	}
	if _, err := units.FromHumanSize(o.LogMaxSize); err != nil {
		errs = append(errs, fmt.Errorf("docker-log-max-size: %w", err))
	}
	if o.LogMaxFile < 2 {
		errs = append(errs, fmt.Errorf("docker-log-max-file %d: want 2 or more: with fewer, lines are lost when Docker rotates the log", o.LogMaxFile))
	}
	return errors.Join(errs...)
}

func (o *Options) validateStreaming() error {
	_, err := o.streamingAddr()
	return errors.Join(err, tlsPaths{o.StreamingTLSCert, o.StreamingTLSKey, o.StreamingTLSClientCA}.validate("streaming"))
}

// validate checks the settings PREFIX-tls-cert, -key and -client-ca.
func (p tlsPaths) validate(prefix string) error {
	var err error
	if (p.Cert == "") != (p.Key == "") {
		err = fmt.Errorf("%[1]s-tls-cert and %[1]s-tls-key must be set together", prefix)
	}
	if p.ClientCA != "" && p.Cert == "" {
		err = errors.Join(err, fmt.Errorf("%[1]s-tls-client-ca needs %[1]s-tls-cert and %[1]s-tls-key", prefix))
	}
	return err
}

// validateMetrics checks the settings of the metrics server.
func (o *Options) validateMetrics() error {
	at := o.metricsEndpoint()
	err := at.tls.validate("metrics")
	path, isUnix := strings.CutPrefix(at.addr, "unix://")
	if isUnix && !filepath.IsAbs(path) {
		err = errors.Join(err, fmt.Errorf("metrics-bind-address %q: want unix:///absolute/path", o.MetricsAddr))
	}
	if at.tls.Cert != "" && (isUnix || at.addr == "") {
		err = errors.Join(err, fmt.Errorf("metrics-tls-cert needs a metrics-bind-address with a port"))
	}
	if o.Profiling && at.addr == "" {
		err = errors.Join(err, fmt.Errorf("profiling needs metrics-bind-address"))
	}
	return err
}

// streamingAddr returns the address to listen on for streaming sessions. As in
// cri-dockerd, the port may be missing. An empty address means loopback, where
// cri-dockerd listens on all addresses: only the kubelet connects.
func (o *Options) streamingAddr() (string, error) {
	if o.StreamingAddr == "" {
		return "127.0.0.1:0", nil
	}
	bare := strings.TrimSuffix(strings.TrimPrefix(o.StreamingAddr, "["), "]")
	if addr, err := netip.ParseAddr(bare); err == nil {
		return net.JoinHostPort(addr.String(), "0"), nil
	}
	if _, _, err := net.SplitHostPort(o.StreamingAddr); err != nil {
		return "", fmt.Errorf("streaming-bind-addr %q: want ADDRESS or ADDRESS:PORT: %w", o.StreamingAddr, err)
	}
	return o.StreamingAddr, nil
}

// execFirst is the value of exec-cpu-affinity, as in CRI-O.
const execFirst = "first"

func (o *Options) validateSwitches() error {
	var errs []error
	if _, err := strconv.ParseBool(o.RestrictOOMScoreAdj); err != nil && o.RestrictOOMScoreAdj != "auto" {
		errs = append(errs, fmt.Errorf("restrict-oom-score-adj %q: want auto, true or false", o.RestrictOOMScoreAdj))
	}
	if _, err := strconv.ParseBool(o.ShimGrouping); err != nil && o.ShimGrouping != "auto" {
		errs = append(errs, fmt.Errorf("shim-grouping %q: want auto, true or false", o.ShimGrouping))
	}
	if o.ExecCPUAffinity != "" && o.ExecCPUAffinity != execFirst {
		errs = append(errs, fmt.Errorf("exec-cpu-affinity %q: want first, or nothing", o.ExecCPUAffinity))
	}
	if !slices.Contains(imageVolumes, translate.DeclaredVolumes(o.ImageVolumes)) {
		errs = append(errs, fmt.Errorf("image-volumes %q: want one of %q", o.ImageVolumes, imageVolumes))
	}
	return errors.Join(errs...)
}

// imageVolumes are the values of image-volumes.
var imageVolumes = []translate.DeclaredVolumes{translate.DockerVolumes, translate.DirectoryVolumes, translate.NoVolumes}

// validateImages checks the directories of the settings for images.
func (o *Options) validateImages() error {
	var errs []error
	for _, s := range []struct{ name, dir string }{
		{"registry-config-dir", o.RegistryConfigDir}, {"namespaced-auth-dir", o.NamespacedAuthDir}, {"image-verifier-dir", o.ImageVerifierDir},
	} {
		if s.dir != "" && !filepath.IsAbs(s.dir) {
			errs = append(errs, fmt.Errorf("%s %q: want an absolute path", s.name, s.dir))
		}
	}
	if size, err := units.FromHumanSize(o.ArtifactStoreSize); err != nil || size < 0 {
		errs = append(errs, fmt.Errorf("artifact-store-size %q: want a size, such as 10g", o.ArtifactStoreSize))
	}
	return errors.Join(errs...)
}

// maxArtifacts returns artifact-store-size, which was validated, in bytes.
func (o *Options) maxArtifacts() int64 {
	size, _ := units.FromHumanSize(o.ArtifactStoreSize)
	return size
}
