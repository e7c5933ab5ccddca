package server

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// tokenForm is what a token may be: long enough not to be guessed, and of letters that every
// header takes.
var tokenForm = regexp.MustCompile(`^[A-Za-z0-9._~-]{16,256}$`)

// ReadToken returns the token in a file, or "" if no file is named.
func ReadToken(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("read the token: %w\nhint: IGLU_TOKEN_FILE names a file that holds it", err)
	}
	token := strings.TrimSpace(string(text))
	if !tokenForm.MatchString(token) {
		return "", errors.New("the file that IGLU_TOKEN_FILE names does not hold a token: 16 to 256 letters, digits or ._~-" +
			"\nhint: make one with: openssl rand -hex 32")
	}
	return token, nil
}
