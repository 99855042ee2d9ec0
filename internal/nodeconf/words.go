package nodeconf

import "strings"

// Word is a word of a command line, and where a file has it.
type Word struct {
	// Text is the word without its quotes.
	Text string
	// Start and End are offsets in the file's text, quotes that belong to the word
	// included.
	Start, End int
}

// char is a byte of a value, and where a file has it. An escaped byte has the span
// of its escape, too.
type char struct {
	b          byte
	start, end int
}

// plain returns the bytes of a text as they are, with offsets from at on.
func plain(text string, at int) []char {
	all := make([]char, len(text))
	for i := range len(text) {
		all[i] = char{text[i], at + i, at + i + 1}
	}
	return all
}

func textOf(value []char) string {
	b := make([]byte, len(value))
	for i, c := range value {
		b[i] = c.b
	}
	return string(b)
}

// SplitWords splits a line at white space, except within single or double quotes,
// which it removes. A backslash makes the next character an ordinary one.
func SplitWords(line string) []string {
	var words []string
	for _, w := range split(plain(line, 0)) {
		words = append(words, textOf(w.value))
	}
	return words
}

// word is a Word whose text can be split further.
type word struct {
	value      []char
	start, end int
}

func (w word) exported() Word { return Word{Text: textOf(w.value), Start: w.start, End: w.end} }

func exported(words []word) []Word {
	var all []Word
	for _, w := range words {
		all = append(all, w.exported())
	}
	return all
}

// split is SplitWords for a value in a file.
func split(value []char) []word {
	var words []word
	var w *word
	var quote byte
	var escape *char
	add := func(c char, is bool) {
		if w == nil {
			w = &word{start: c.start}
		}
		w.end = c.end
		if is {
			w.value = append(w.value, c)
		}
	}
	for _, c := range value {
		switch {
		case escape != nil:
			add(char{c.b, escape.start, c.end}, true)
			escape = nil
		case c.b == '\\':
			escape = &char{c.b, c.start, c.end}
			add(c, false)
		case quote != 0 && c.b == quote:
			quote = 0
			add(c, false)
		case quote == 0 && (c.b == '"' || c.b == '\''):
			quote = c.b
			add(c, false)
		case quote == 0 && isSpace(c.b):
			if w != nil {
				words, w = append(words, *w), nil
			}
		default:
			add(c, true)
		}
	}
	if w != nil {
		words = append(words, *w)
	}
	return words
}

func isSpace(b byte) bool { return strings.IndexByte(" \t\r\n", b) >= 0 }
