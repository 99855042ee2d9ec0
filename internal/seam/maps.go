package seam

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// ParseMappings reads the text of /proc/PID/uid_map or gid_map.
func ParseMappings(text string) ([]Mapping, error) {
	var out []Mapping
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return nil, fmt.Errorf("ID map: %q is not three numbers", strings.TrimSpace(line))
		}
		var n [3]uint32
		for i, f := range fields {
			v, err := strconv.ParseUint(f, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("ID map: %w", err)
			}
			n[i] = uint32(v)
		}
		out = append(out, Mapping{ContainerID: n[0], HostID: n[1], Size: n[2]})
	}
	return out, nil
}

// CheckProcess returns an error unless a process is in a user namespace with these
// mappings. A process that does not exist is an error for which
// errors.Is(err, fs.ErrNotExist) or errors.Is(err, syscall.ESRCH) holds.
func (u *UserNamespace) CheckProcess(pid int) error {
	for _, m := range []struct {
		name string
		want []Mapping
	}{{"uid_map", u.UIDs}, {"gid_map", u.GIDs}} {
		file := fmt.Sprintf("/proc/%d/%s", pid, m.name)
		b, err := os.ReadFile(file) //nolint:gosec // of a process
		if err != nil {
			return err
		}
		have, err := ParseMappings(string(b))
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if !slices.Equal(have, m.want) {
			return fmt.Errorf("%s is %v, want %v", file, have, m.want)
		}
	}
	return nil
}
