package network

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/cridock/cridock/internal/netns"
)

// SetSysctls writes net.* sysctls in the network namespace at netnsPath, in the
// order of their names. Names have dots or slashes, as in sysctl(8). With an
// invalid name it returns ErrInvalidArgument and writes nothing.
func SetSysctls(netnsPath string, sysctls map[string]string) error {
	files := make(map[string]string, len(sysctls))
	for name := range sysctls {
		file, err := sysctlFile(name)
		if err != nil {
			return err
		}
		files[name] = file
	}
	if len(files) == 0 {
		return nil
	}
	return netns.DoAt(netnsPath, func() error {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if err := writeSysctl(files[name], sysctls[name]); err != nil {
				return fmt.Errorf("sysctl %s: %w", name, err)
			}
		}
		return nil
	})
}

// EnableIPv6 enables IPv6 on all present and future interfaces of the namespace.
// Docker disables it in sandboxes of its network "none" (moby/moby#42748). On a
// kernel without IPv6 it does nothing.
func EnableIPv6(netnsPath string) error {
	return netns.DoAt(netnsPath, func() error {
		for _, scope := range []string{"all", "default", "lo"} {
			err := writeSysctl("/proc/sys/net/ipv6/conf/"+scope+"/disable_ipv6", "0")
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("enable IPv6: %w", err)
			}
		}
		return nil
	})
}

// sysctlFile returns the file of a net.* sysctl. The first separator of a name
// decides: after a dot, dots separate and slashes stand for dots; after a
// slash, slashes separate (sysctl(8)).
func sysctlFile(name string) (string, error) {
	path := name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		path = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	rest, ok := strings.CutPrefix(path, "net/")
	if !ok || rest == "." || !filepath.IsLocal(rest) || filepath.Clean(rest) != rest {
		return "", fmt.Errorf("sysctl %q: %w: not a name of the form net.*", name, errdefs.ErrInvalidArgument)
	}
	return "/proc/sys/net/" + rest, nil
}

// writeSysctl writes the value unless it is already set.
func writeSysctl(file, value string) error {
	if now, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(now)) == value { //nolint:gosec // sysctlFile has checked that it is below /proc/sys/net
		return nil
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC, 0) //nolint:gosec // sysctlFile has checked that it is below /proc/sys/net
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
