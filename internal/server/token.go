package server

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"iglu.sh/builder/internal/lazyregexp"
)

// tokenForm is what a token may be: long enough not to be guessed, and of letters that every
// header takes.
var tokenForm = lazyregexp.New(`^[A-Za-z0-9._~-]{16,256}$`)

// errNotToken is what a file holds that is no token.
var errNotToken = errors.New("does not hold a token: 16 to 256 letters, digits or ._~-")

// ReadToken returns the token in a file, or "" if no file is named. Its errors begin with the
// setting that names the file, hold the file's path, and nothing of what is in it.
func ReadToken(setting, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", setting, err)
	}
	token := strings.TrimSpace(string(text))
	if !tokenForm().MatchString(token) {
		return "", fmt.Errorf("%s: %s %w", setting, file, errNotToken)
	}
	return token, nil
}

// token returns the token that clients must show, or "" if none is set.
func (s *Settings) token() (string, error) {
	token, err := ReadToken(EnvName("token-file"), s.TokenFile)
	if errors.Is(err, errNotToken) {
		err = fmt.Errorf("%w\nhint: make one with: openssl rand -hex 32", err)
	}
	return token, err
}
