// Package textcut finds where a text in UTF-8 can be cut without cutting a character.
package textcut

import "unicode/utf8"

// At returns the largest length of at most n bytes to which a text that is longer than n can be cut.
func At[T string | []byte](text T, n int) int {
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return n
}

// Short returns at most n bytes of a text, and then "…" if the text is longer.
func Short(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return text[:At(text, n)] + "…"
}

// Whole returns the length in bytes of a text without an incomplete character at its end.
func Whole[T string | []byte](text T) int {
	for i := len(text) - 1; i >= 0 && len(text)-i < utf8.UTFMax; i-- {
		if utf8.RuneStart(text[i]) {
			if utf8.FullRuneInString(string(text[i:])) {
				break
			}
			return i
		}
	}
	return len(text)
}
