package nodeconf

import (
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// unitDirs are systemd's, later ones override earlier ones.
var unitDirs = []string{"/lib/systemd/system", "/usr/lib/systemd/system", "/run/systemd/system", "/etc/systemd/system"}

// Unit has the values of a systemd unit and its drop-ins, by "Section.Key".
type Unit map[string][]string

// UnitFile returns the file that systemd reads for a unit, "" if there is none.
func (r Root) UnitFile(name string) string {
	for _, dir := range slices.Backward(unitDirs) {
		if path := filepath.Join(dir, name); r.Exists(path) {
			return path
		}
	}
	return ""
}

// UnitFiles returns the files that systemd reads for a unit, in their order: its file
// and the drop-ins. There are none if there is no such unit.
func (r Root) UnitFiles(name string) []string {
	file := r.UnitFile(name)
	if file == "" {
		return nil
	}
	dropIns := map[string]string{}
	for _, dir := range unitDirs {
		paths, _ := filepath.Glob(r.Path(dir, name+".d/*.conf")) // the pattern is valid
		for _, path := range paths {
			dropIns[filepath.Base(path)] = r.Shown(path)
		}
	}
	return append([]string{file}, valuesByKey(dropIns)...)
}

// ReadUnit returns a unit with its drop-ins; nil if there is no such unit.
func (r Root) ReadUnit(name string) (Unit, error) {
	files := r.UnitFiles(name)
	if files == nil {
		return nil, nil
	}
	u := Unit{}
	for _, path := range files {
		text, err := r.ReadFile(path)
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
func (u Unit) add(text string) {
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

// Last returns a setting's last value, "" if there is none.
func (u Unit) Last(key string) string {
	values := u[key]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// logicalLines returns the lines of a unit file without comments and
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

// Environment returns the variables of a service. As with systemd, files override
// what the unit itself sets.
func (r Root) Environment(u Unit) (map[string]string, error) {
	env := map[string]string{}
	for _, assignments := range u["Service.Environment"] {
		for _, assignment := range SplitWords(assignments) {
			if name, value, ok := strings.Cut(assignment, "="); ok {
				env[name] = value
			}
		}
	}
	for _, pattern := range u["Service.EnvironmentFile"] {
		for _, path := range r.environmentFiles(pattern) {
			text, err := r.ReadFile(path)
			if err != nil {
				return nil, err
			}
			for _, a := range EnvFile(text) {
				env[a.Name] = a.Value
			}
		}
	}
	return env, nil
}

// EnvironmentFiles returns the existing environment files of a service, in their order.
func (r Root) EnvironmentFiles(u Unit) []string {
	var files []string
	for _, pattern := range u["Service.EnvironmentFile"] {
		files = append(files, r.environmentFiles(pattern)...)
	}
	return files
}

func (r Root) environmentFiles(pattern string) []string {
	paths, _ := filepath.Glob(r.Path(strings.Trim(strings.TrimPrefix(pattern, "-"), `"'`))) // an invalid one matches nothing
	for i := range paths {
		paths[i] = r.Shown(paths[i])
	}
	return paths
}

var (
	wordVariable = regexp.MustCompile(`^\$(\w+)$`)
	anyVariable  = regexp.MustCompile(`\$\{(\w+)\}`)
)

// ServiceCommand returns the words of the last ExecStart with variables put in: $NAME is a
// word of its own and stands for any number of words, ${NAME} for a part of one.
func (r Root) ServiceCommand(u Unit) ([]string, error) {
	env, err := r.Environment(u)
	if err != nil {
		return nil, err
	}
	var words []string
	for _, word := range SplitWords(u.Last("Service.ExecStart")) {
		if m := wordVariable.FindStringSubmatch(word); m != nil {
			words = append(words, SplitWords(env[m[1]])...)
			continue
		}
		words = append(words, anyVariable.ReplaceAllStringFunc(word, func(v string) string { return env[v[2:len(v)-1]] }))
	}
	return words, nil
}

// Enabled reports whether systemd starts a unit with a target.
func (r Root) Enabled(unit string) bool {
	paths, _ := filepath.Glob(r.Path("/etc/systemd/system/*.target.*", unit)) // wants and requires; the pattern is valid
	return len(paths) > 0
}
