package doctor

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// unitDirs are systemd's, later ones override earlier ones.
var unitDirs = []string{"/lib/systemd/system", "/usr/lib/systemd/system", "/run/systemd/system", "/etc/systemd/system"}

// unit has the values of a systemd unit and its drop-ins, by "Section.Key".
type unit map[string][]string

// unitFile returns the file that systemd reads for a unit, "" if there is none.
func (n *node) unitFile(name string) string {
	for _, dir := range slices.Backward(unitDirs) {
		if path := filepath.Join(dir, name); n.exists(path) {
			return path
		}
	}
	return ""
}

// readUnit returns nil if there is no such unit.
func (n *node) readUnit(name string) (unit, error) {
	file := n.unitFile(name)
	if file == "" {
		return nil, nil
	}
	dropIns := map[string]string{}
	for _, dir := range unitDirs {
		paths, _ := filepath.Glob(n.path(dir, name+".d/*.conf")) // the pattern is valid
		for _, path := range paths {
			dropIns[filepath.Base(path)] = n.shown(path)
		}
	}
	u := unit{}
	for _, path := range append([]string{file}, valuesByKey(dropIns)...) {
		text, err := n.readFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a link may lead nowhere
			return nil, err
		}
		u.add(text)
	}
	return u, nil
}

// valuesByKey returns a map's values in the order of their keys.
func valuesByKey(m map[string]string) []string {
	var values []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		values = append(values, m[key])
	}
	return values
}

// add adds what a file sets. An empty value removes earlier ones.
func (u unit) add(text string) {
	section := ""
	for _, line := range logicalLines(text) {
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			section = strings.Trim(line, "[]")
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		key = section + "." + strings.TrimSpace(key)
		if value = strings.TrimSpace(value); value == "" {
			delete(u, key)
		} else {
			u[key] = append(u[key], value)
		}
	}
}

// last returns a setting's last value, "" if there is none.
func (u unit) last(key string) string {
	values := u[key]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// logicalLines returns the lines of a unit or environment file without comments and
// empty ones. A line that ends with a backslash goes on in the next line that is no
// comment.
func logicalLines(text string) []string {
	var lines []string
	begun := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		if before, goesOn := strings.CutSuffix(line, `\`); goesOn {
			begun += before + " "
			continue
		}
		if line = strings.TrimSpace(begun + line); line != "" {
			lines = append(lines, line)
		}
		begun = ""
	}
	if begun = strings.TrimSpace(begun); begun != "" {
		lines = append(lines, begun)
	}
	return lines
}

// environment returns the variables of a service. As with systemd, files override
// what the unit itself sets.
func (n *node) environment(u unit) (map[string]string, error) {
	env := map[string]string{}
	for _, assignments := range u["Service.Environment"] {
		for _, assignment := range splitWords(assignments) {
			if name, value, ok := strings.Cut(assignment, "="); ok {
				env[name] = value
			}
		}
	}
	for _, pattern := range u["Service.EnvironmentFile"] {
		paths, _ := filepath.Glob(n.path(strings.Trim(strings.TrimPrefix(pattern, "-"), `"'`))) // an invalid one matches nothing
		for _, path := range paths {
			text, err := n.readFile(n.shown(path))
			if err != nil {
				return nil, err
			}
			for _, line := range logicalLines(text) {
				if name, value, ok := strings.Cut(line, "="); ok {
					env[strings.TrimSpace(name)] = strings.Join(splitWords(value), " ")
				}
			}
		}
	}
	return env, nil
}

var (
	wordVariable = regexp.MustCompile(`^\$(\w+)$`)
	anyVariable  = regexp.MustCompile(`\$\{(\w+)\}`)
)

// serviceCommand returns the words of the last ExecStart with variables put in: $NAME is a
// word of its own and stands for any number of words, ${NAME} for a part of one.
func (n *node) serviceCommand(u unit) ([]string, error) {
	env, err := n.environment(u)
	if err != nil {
		return nil, err
	}
	var words []string
	for _, word := range splitWords(u.last("Service.ExecStart")) {
		if m := wordVariable.FindStringSubmatch(word); m != nil {
			words = append(words, splitWords(env[m[1]])...)
			continue
		}
		words = append(words, anyVariable.ReplaceAllStringFunc(word, func(v string) string { return env[v[2:len(v)-1]] }))
	}
	return words, nil
}

// enabled reports whether systemd starts a unit with a target.
func (n *node) enabled(unit string) bool {
	paths, _ := filepath.Glob(n.path("/etc/systemd/system/*.target.*", unit)) // wants and requires; the pattern is valid
	return len(paths) > 0
}

// ownUnits are the names that units of cridock have: its own, and those of cri-dockerd
// in whose place it may be.
var ownUnits = []string{"cridock.service", "cridock.socket", "cri-docker.service", "cri-docker.socket"}

// own reports whether a unit starts cridock, by whichever name.
func (n *node) own(name string) bool {
	target, _ := os.Readlink(n.path(n.unitFile(name))) // empty if it is not a link
	if strings.HasPrefix(name, "cridock.") || strings.HasPrefix(filepath.Base(target), "cridock.") {
		return true
	}
	u, err := n.readUnit(name)
	if err != nil || u == nil {
		return false
	}
	if base, ok := strings.CutSuffix(name, ".socket"); ok {
		service := u.last("Socket.Service")
		if service == "" {
			service = base + ".service"
		}
		if u, err = n.readUnit(service); err != nil {
			return false
		}
	}
	words, err := n.serviceCommand(u)
	if err != nil || len(words) == 0 {
		return false
	}
	return n.isCridock(n.path(strings.TrimLeft(words[0], "@-:+!|")))
}

// service returns the enabled unit that starts cridock, "" if there is none.
func (n *node) service() string {
	for _, name := range ownUnits {
		if n.enabled(name) && n.own(name) {
			return name
		}
	}
	return ""
}

// unitSocket returns the path on which a socket unit listens, "" if there is none.
func (n *node) unitSocket(name string) string {
	u, err := n.readUnit(name)
	if err != nil {
		return ""
	}
	for _, address := range u["Socket.ListenStream"] {
		if path := strings.Replace(address, "%t", "/run", 1); filepath.IsAbs(path) {
			return socketPath(path)
		}
	}
	return ""
}

// passedSocket returns the path of the socket that systemd passes to cridock, "" if
// no unit says where it is. An enabled unit is more likely than another: cri-dockerd's
// service starts its socket's unit itself.
func (n *node) passedSocket() string {
	found := ""
	for _, name := range ownUnits {
		if !strings.HasSuffix(name, ".socket") || !n.own(name) {
			continue
		}
		path := n.unitSocket(name)
		switch {
		case path != "" && n.enabled(name):
			return path
		case found == "" && path != "" && n.exists(path):
			found = path
		}
	}
	return found
}
