package nodeconf

import (
	"bytes"
	"slices"
	"strings"
)

// Assignment is a variable that a file sets, or the command line of a unit.
type Assignment struct {
	// Name is the variable's, or ExecStart.
	Name string
	// Value is without the quotes around it. Quotes within it group words.
	Value string
	Words []Word
	// End is where words can be added in the file's text.
	End int
	// Quoted reports whether the value, or the whole assignment, is in quotes.
	Quoted bool
}

// EnvFile returns what an environment file of systemd sets, in its order. A value
// may continue in the next line after a backslash, and within quotes.
func EnvFile(text string) []Assignment {
	var all []Assignment
	for at := 0; at < len(text); {
		line, _, _ := strings.Cut(text[at:], "\n")
		name, _, ok := strings.Cut(line, "=")
		if !ok || strings.ContainsAny(firstOf(line), "#;") {
			at += len(line) + 1
			continue
		}
		a, end := envValue(text, at+len(name)+1)
		a.Name = strings.TrimSpace(name)
		all = append(all, a)
		at = end
	}
	return all
}

// firstOf returns the first character of a line that is no white space.
func firstOf(line string) string {
	line = strings.TrimSpace(line)
	return line[:min(1, len(line))]
}

// envValue reads the value that begins at an offset, and returns the offset of the
// next line. The rules are systemd's: quotes count only at the beginning, or after
// other quotes.
func envValue(text string, at int) (Assignment, int) {
	var a Assignment
	var value []char
	a.End = at
	const before, within = 0, 1 // the value; else the quote
	state := byte(before)
	for ; at < len(text); at++ {
		c := text[at]
		escapes := c == '\\' && at+1 < len(text) && state != '\''
		switch {
		case escapes && text[at+1] == '\n':
			at++
		case escapes && state == '"' && strings.IndexByte("\"\\$`", text[at+1]) < 0:
			value = append(value, char{c, at, at + 1})
		case escapes:
			value = append(value, char{text[at+1], at, at + 2})
			at++
			state = max(state, within)
		case c == '\n' && state <= within:
			return a.with(value), at + 1
		case state == before && (c == '"' || c == '\''):
			state, a.Quoted, a.End = c, true, at+1
		case state > within && c == state:
			state = before
		case state == before && isSpace(c):
		default:
			value = append(value, char{c, at, at + 1})
			state = max(state, within)
		}
	}
	return a.with(value), at
}

// with sets the value.
func (a Assignment) with(value []char) Assignment {
	for !a.Quoted && len(value) > 0 && isSpace(value[len(value)-1].b) {
		value = value[:len(value)-1]
	}
	a.Value = textOf(value)
	a.Words = exported(split(value))
	if len(a.Words) > 0 {
		a.End = a.Words[len(a.Words)-1].End
	}
	return a
}

// UnitSettings returns the variables and the command line that a unit file or drop-in
// sets for its service, in the order of the file.
func UnitSettings(text string) []Assignment {
	var all []Assignment
	section := ""
	for at := 0; at < len(text); {
		line, next := unitLine(text, at)
		at = next
		trimmed := strings.TrimSpace(textOf(line))
		if strings.HasPrefix(trimmed, "[") {
			section = strings.Trim(trimmed, "[]")
			continue
		}
		i := slices.IndexFunc(line, func(c char) bool { return c.b == '=' })
		if section != "Service" || i < 0 {
			continue
		}
		value := line[i+1:]
		switch strings.TrimSpace(textOf(line[:i])) {
		case "ExecStart":
			a := Assignment{Name: "ExecStart", End: line[i].end}.with(value)
			a.Quoted = false
			all = append(all, a)
		case "Environment":
			all = append(all, environment(text, value)...)
		}
	}
	return all
}

// environment returns the variables of one setting Environment.
func environment(text string, value []char) []Assignment {
	var all []Assignment
	for _, w := range split(value) {
		name, _, ok := strings.Cut(textOf(w.value), "=")
		if !ok {
			continue
		}
		a := Assignment{Name: name, Quoted: bytes.ContainsAny([]byte(text[w.start:w.end]), `"'`), End: w.value[len(name)].end}
		all = append(all, a.with(w.value[len(name)+1:]))
	}
	return all
}

// unitLine returns the line of a unit file at an offset with those that continue it,
// and the offset of the next. The end of a continued line is a space.
func unitLine(text string, at int) ([]char, int) {
	var line []char
	for at < len(text) {
		part, _, found := strings.Cut(text[at:], "\n")
		next := at + len(part)
		if found {
			next++
		}
		if strings.ContainsAny(firstOf(part), "#;") {
			if line == nil {
				return nil, next
			}
			line[len(line)-1].end = next // the comment belongs to the space before it
			at = next
			continue
		}
		before, goesOn := strings.CutSuffix(strings.TrimRight(part, " \t\r"), `\`)
		if !goesOn {
			return append(line, plain(part, at)...), next
		}
		line = append(line, plain(before, at)...)
		line = append(line, char{' ', at + len(before), next})
		at = next
	}
	return line, at
}
