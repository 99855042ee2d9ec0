package shim

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// appArmorProfiles lists the profiles loaded in the kernel, one "name (mode)" per
// line.
const appArmorProfiles = "/sys/kernel/security/apparmor/profiles"

// sandboxProfiles checks and reads the security profiles a sandbox asks for. standard
// is the file with the default seccomp profile, if that is one.
func sandboxProfiles(c *runtimeapi.LinuxSandboxSecurityContext, standard string) ([]byte, error) {
	if err := checkAppArmor(c.GetApparmor(), ""); err != nil {
		return nil, err
	}
	return readSeccompProfile(c.GetSeccomp(), c.GetSeccompProfilePath(), standard)
}

// containerProfiles is sandboxProfiles for a container.
func containerProfiles(c *runtimeapi.LinuxContainerSecurityContext, standard string) ([]byte, error) {
	if err := checkAppArmor(c.GetApparmor(), c.GetApparmorProfile()); err != nil {
		return nil, err
	}
	return readSeccompProfile(c.GetSeccomp(), c.GetSeccompProfilePath(), standard)
}

// readSeccompProfile reads the profile that a request names on the node, or the
// default one if that is a file (standard); nil if the request needs neither. A
// missing profile is an error: running without it would be the opposite of the
// request.
func readSeccompProfile(p *runtimeapi.SecurityProfile, deprecated, standard string) ([]byte, error) {
	path, err := translate.SeccompProfilePath(p, deprecated, standard)
	if err != nil || path == "" {
		return nil, err
	}
	b, err := os.ReadFile(path) //nolint:gosec // the kubelet names the profile; its content goes to Docker
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("seccomp profile %q: %w: not found on the node", path, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, fmt.Errorf("seccomp profile %q: %w: %w", path, errdefs.ErrFailedPrecondition, err)
	}
	if len(b) == 0 && path == standard { // the translation would treat it as no profile
		return nil, fmt.Errorf("seccomp-default-profile %q: %w: the file is empty", path, errdefs.ErrFailedPrecondition)
	}
	return b, nil
}

// checkAppArmor returns an error for a profile that the kernel has not loaded, which
// Docker would only detect at the start.
func checkAppArmor(p *runtimeapi.SecurityProfile, deprecated string) error {
	name, err := translate.AppArmorProfile(p, deprecated)
	if err != nil || name == "" {
		return err
	}
	f, err := os.Open(appArmorProfiles)
	if err != nil {
		return fmt.Errorf("apparmor profile %q: %w: the node's profiles cannot be read: %w", name, errdefs.ErrFailedPrecondition, err)
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if loaded, _, _ := strings.Cut(lines.Text(), " ("); loaded == name {
			return nil
		}
	}
	return fmt.Errorf("apparmor profile %q: %w: not loaded on the node", name, errdefs.ErrFailedPrecondition)
}
