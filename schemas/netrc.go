package schemas

import (
	"errors"
	"strings"
)

// netrcPasswords returns the passwords in the text of a netrc file, and the tokens that are there as the names of users,
// or what is wrong with it. The format is that of curl (lib/netrc.c of its sources), which Nix and git use. An entry
// begins with "machine HOST" or "default". "login", "password" and "account" are each followed by a word. A word in double
// quotes may contain spaces and, after a backslash, any character. Macros ("macdef") are only for ftp and are refused.
func netrcPasswords(text string) ([]string, error) {
	var passwords []string
	inEntry := false
	words := netrcWords(text)
	for i := 0; i < len(words); i++ {
		keyword := words[i]
		if keyword == "default" {
			inEntry = true
			continue
		}
		if i++; i == len(words) {
			return passwords, errors.New("ends in the middle of an entry")
		}
		switch keyword {
		case "machine":
			inEntry = true
		case "login", "password", "account":
			if !inEntry {
				return passwords, errors.New("must begin with machine, and a host")
			}
			if keyword != "login" || isToken(words[i]) {
				passwords = append(passwords, words[i])
			}
		default:
			return passwords, errors.New("must be of entries such as: machine cache.example.com login NAME password PASSWORD")
		}
	}
	return passwords, nil
}

// netrcWords splits the text of a netrc file into its words. A line that begins with # is a comment.
func netrcWords(text string) []string {
	var words []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
			var word string
			word, line = netrcWord(line)
			words = append(words, word)
		}
	}
	return words
}

// netrcWord returns the first word of a line and the rest of the line.
func netrcWord(line string) (word, rest string) {
	if line[0] != '"' {
		end := strings.IndexAny(line, " \t\r\n")
		if end < 0 {
			return line, ""
		}
		return line[:end], line[end:]
	}
	var text strings.Builder
	for i := 1; i < len(line); i++ {
		switch c := line[i]; {
		case c == '"':
			return text.String(), line[i+1:]
		case c == '\\' && i+1 < len(line):
			i++
			text.WriteByte(netrcEscapes(line[i]))
		default:
			text.WriteByte(c)
		}
	}
	return text.String(), ""
}

// netrcEscapes returns the meaning of a character after a backslash.
func netrcEscapes(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c
}

// NetrcHas reports whether the text of a netrc file has an entry for a host.
func NetrcHas(text, host string) bool {
	words := netrcWords(text)
	for i := range len(words) - 1 {
		if words[i] == "machine" && strings.EqualFold(words[i+1], host) {
			return true
		}
	}
	return false
}
