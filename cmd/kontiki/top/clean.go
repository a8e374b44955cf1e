package top

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// clean returns text of the cluster as one line that is safe to write to a terminal, of at most the given number of bytes: escape sequences
// (ECMA-48) are removed with their parameters, tabs become spaces, and what else cannot be printed (control characters, marks that change the
// direction of writing, bytes that are not UTF-8) is removed.
func clean(text string, most int) string {
	if plain(text) {
		if len(text) > most {
			text = text[:most]
		}
		return text
	}
	var out strings.Builder
	for len(text) > 0 && out.Len() < most {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == 0x1b:
			text = text[escape(text):]
			continue
		case r == '\t':
			out.WriteString("    ")
		case r == utf8.RuneError && size <= 1, !unicode.IsPrint(r):
		case out.Len()+size > most:
			return out.String()
		default:
			out.WriteRune(r)
		}
		text = text[size:]
	}
	return out.String()
}

// plain reports whether text is of printable ASCII characters only, as nearly all is.
func plain(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// escape returns the length of the escape sequence that text begins with. One that does not end is as long as the text.
func escape(text string) int {
	if len(text) < 2 {
		return len(text)
	}
	switch text[1] {
	case '[': // CSI: parameters and intermediate bytes, then a final byte
		for i := 2; i < len(text); i++ {
			if text[i] < 0x20 || text[i] > 0x7e {
				return i // it is broken, and what follows is looked at by itself
			}
			if text[i] >= 0x40 {
				return i + 1
			}
		}
		return len(text)
	case ']', 'P', 'X', '^', '_': // OSC, DCS, SOS, PM, APC: a string, ended by BEL or ST
		for i := 2; i < len(text); i++ {
			if text[i] == 0x07 {
				return i + 1
			}
			if text[i] == 0x1b {
				if i+1 < len(text) && text[i+1] == '\\' {
					return i + 2
				}
				return i
			}
		}
		return len(text)
	}
	for i := 1; i < len(text); i++ {
		if text[i] < 0x20 || text[i] > 0x7e {
			return i
		}
		if text[i] >= 0x30 {
			return i + 1
		}
	}
	return len(text)
}

// lines splits text of the cluster into clean lines, at most the given number of them.
func lines(text string, most int) []string {
	var out []string
	for line := range strings.Lines(text) {
		if len(out) == most {
			return append(out, "(cut off: it is longer)")
		}
		out = append(out, clean(strings.TrimRight(line, "\r\n"), lineBytes))
	}
	return out
}
