// Package mountinfo reads the kernel's lists of mounts.
package mountinfo

import "strings"

// Mount is one line of mountinfo, see proc_pid_mountinfo(5). Escapes in SuperOptions
// are still there, see [Unescape]: an escaped comma is part of an option.
type Mount struct {
	// Device is MAJOR:MINOR.
	Device, Root, Point, FSType, SuperOptions string
}

// Parse returns the mount that a line describes, and false if it describes none.
func Parse(line string) (Mount, bool) {
	fields := strings.Fields(line)
	for i := 6; i+3 < len(fields); i++ {
		if fields[i] == "-" { // after a varying number of optional fields
			return Mount{Device: fields[2], Root: Unescape(fields[3]), Point: Unescape(fields[4]), FSType: fields[i+1], SuperOptions: fields[i+3]}, true
		}
	}
	return Mount{}, false
}

// Unescape undoes mountinfo's escapes of space, tab, newline and backslash.
func Unescape(field string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(field)
}
