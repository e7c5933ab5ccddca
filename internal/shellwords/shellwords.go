// Package shellwords splits a command line into words as a POSIX shell does, and
// does nothing else of what a shell does: variables, globs, operators and comments
// stay as they are written.
package shellwords

import (
	"errors"
	"strings"
)

// Errors of Split, in words for whoever wrote the line.
var (
	ErrOpenQuote = errors.New("a quote is not closed")
	ErrBackslash = errors.New("ends in a backslash")
)

// Split returns the words of line, which are separated by spaces, tabs and line
// ends. Quoting is that of POSIX, section 2.2: a backslash keeps the next
// character, single quotes keep all, and in double quotes a backslash is special
// only before $ ` " \ and a line end.
func Split(line string) ([]string, error) {
	var (
		words   []string
		word    strings.Builder
		started bool // a word can be started and empty: ''
		quote   byte // the quote we are in, or 0
	)
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote == '\'':
			if c == quote {
				quote = 0
			} else {
				word.WriteByte(c)
			}
		case c == '\\':
			if i++; i == len(line) {
				return nil, ErrBackslash
			}
			if quote != 0 && !strings.ContainsRune("$`\"\\\n", rune(line[i])) {
				word.WriteByte('\\')
			}
			if line[i] != '\n' { // a line that goes on in the next
				word.WriteByte(line[i])
				started = true
			}
		case quote == '"':
			if c == quote {
				quote = 0
			} else {
				word.WriteByte(c)
			}
		case c == '\'' || c == '"':
			quote, started = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if started {
				words = append(words, word.String())
				word.Reset()
				started = false
			}
		default:
			word.WriteByte(c)
			started = true
		}
	}
	if quote != 0 {
		return nil, ErrOpenQuote
	}
	if started {
		words = append(words, word.String())
	}
	return words, nil
}

// Join returns a line that Split, and a shell, split into words again.
func Join(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = quote(word)
	}
	return strings.Join(quoted, " ")
}

// plain are the characters that no shell gives a meaning inside a word.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=@%+,#"

func quote(word string) string {
	if word != "" && word[0] != '#' && strings.Trim(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
