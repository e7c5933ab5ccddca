// Package shellwords splits a command line into words as a POSIX shell does. It does nothing else that a shell
// does: variables, globs, operators and comments are not interpreted.
package shellwords

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"iglu.sh/builder/internal/lazyregexp"
)

// Errors of Split, for the person who wrote the line.
var (
	errOpenQuote = errors.New("a quote is not closed")
	errBackslash = errors.New("ends in a backslash")
)

// Split returns the words of line, which are separated by spaces, tabs and line ends (LF or CR LF). Quoting is
// that of POSIX, section 2.2: a backslash quotes the next character, single quotes quote everything, and in
// double quotes a backslash is special only before $ ` " \ and a line end.
func Split(line string) ([]string, error) {
	words, err := scan(line)
	if err != nil {
		return nil, err
	}
	var texts []string
	for _, w := range words {
		texts = append(texts, w.text)
	}
	return texts, nil
}

// Operator returns the first operator of a shell in line, such as && or >, or "" if there is none. Split treats an
// operator as a word or a part of a word. Quoted operators are words to a shell as well, so they are not returned.
// Split must be able to split the line.
func Operator(line string) string {
	words, err := scan(line)
	if err != nil {
		return ""
	}
	for _, w := range words {
		if operator := w.operator(); operator != "" {
			return operator
		}
	}
	return ""
}

// A word is a word of a line.
type word struct {
	text string
	bare string // the unquoted beginning of the word
	open bool   // the last character is not quoted
}

// operators are the operators of a POSIX shell (section 2.10.2), without the redirections. They are recognized only as
// whole words, so a URL with & is a word.
var operators = []string{"&&", "||", "|", "|&", "&", ";", ";;"}

// redirection matches the beginning of a redirection. lookup matches a path that Nix looks up in NIX_PATH, which begins
// like a redirection.
var (
	redirection = lazyregexp.New(`^[0-9]*(>>|>&|>\||>|<<<|<<|<&|<>|<)`)
	lookup      = lazyregexp.New(`^<[^<>]+>$`)
)

func (w word) operator() string {
	if w.bare == w.text && slices.Contains(operators, w.text) {
		return w.text
	}
	if strings.HasPrefix(w.bare, "$(") || strings.HasPrefix(w.bare, "`") {
		return w.bare[:min(2, strings.IndexAny(w.bare, "(`")+1)]
	}
	if m := redirection().FindStringSubmatch(w.bare); m != nil && !lookup().MatchString(w.text) {
		return m[1]
	}
	if w.open && strings.HasSuffix(w.text, ";") {
		return ";"
	}
	return ""
}

// A scanner splits a line.
type scanner struct {
	words   []word
	text    strings.Builder // of the present word
	started bool            // there is a present word; it can be empty: ''
	bare    int             // how many of its bytes are before the first quote; -1: no quote yet
	open    bool            // its last byte is not quoted
}

func scan(line string) ([]word, error) {
	s := scanner{bare: -1}
	var quote byte // the open quote, or 0
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote == '\'':
			if c == quote {
				quote = 0
			} else {
				s.add(line[i:i+1], false)
			}
		case c == '\\':
			i++
			end := lineEnd(line[i:])
			switch {
			case i == len(line):
				return nil, errBackslash
			case end > 0: // the line continues on the next one
				i += end - 1
			case quote != 0 && !strings.ContainsRune("$`\"\\", rune(line[i])):
				s.add(line[i-1:i+1], false)
			default:
				s.add(line[i:i+1], false)
			}
		case quote == '"':
			if c == quote {
				quote = 0
			} else {
				s.add(line[i:i+1], false)
			}
		case c == '\'' || c == '"':
			quote = c
			s.add("", false)
		case c == ' ' || c == '\t' || lineEnd(line[i:]) > 0:
			s.end()
		default:
			s.add(line[i:i+1], true)
		}
	}
	if quote != 0 {
		return nil, errOpenQuote
	}
	s.end()
	return s.words, nil
}

// lineEnd returns the length of the line end at the beginning of text, or 0.
func lineEnd(text string) int {
	switch {
	case strings.HasPrefix(text, "\n"):
		return 1
	case strings.HasPrefix(text, "\r\n"):
		return 2
	}
	return 0
}

// add appends to the present word, or begins one.
func (s *scanner) add(text string, open bool) {
	if !open && s.bare < 0 {
		s.bare = s.text.Len()
	}
	s.text.WriteString(text)
	s.started, s.open = true, open
}

// end ends the present word, if there is one.
func (s *scanner) end() {
	if !s.started {
		return
	}
	w := word{text: s.text.String(), open: s.open}
	w.bare = w.text
	if s.bare >= 0 {
		w.bare = w.text[:s.bare]
	}
	s.words = append(s.words, w)
	s.text.Reset()
	s.started, s.bare, s.open = false, -1, false
}

// Join returns a line that Split, and a shell, split into the same words.
func Join(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = quote(word)
	}
	return strings.Join(quoted, " ")
}

// plain are the characters without a special meaning inside a word, in any shell.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=@%+,#"

func quote(word string) string {
	if word != "" && word[0] != '#' && strings.Trim(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// ansiC converts Go's escapes in double quotes to bash's escapes between $' and '.
var ansiC = strings.NewReplacer(`\\`, `\\`, `\"`, `"`, `'`, `\'`)

// Show returns words as Join does, but on one line and without control characters: a word with control characters is
// written in bash's syntax, $'a\nb'.
func Show(words []string) string {
	shown := make([]string, len(words))
	for i, word := range words {
		if strings.ContainsFunc(word, unicode.IsControl) {
			escaped := strconv.Quote(word)
			shown[i] = "$'" + ansiC.Replace(escaped[1:len(escaped)-1]) + "'"
		} else {
			shown[i] = quote(word)
		}
	}
	return strings.Join(shown, " ")
}
