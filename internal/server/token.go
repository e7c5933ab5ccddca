package server

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"iglu.sh/builder/internal/lazyregexp"
)

// tokenForm matches valid tokens: long enough not to be guessed, with characters that are valid in any HTTP
// header.
var tokenForm = lazyregexp.New(`^[A-Za-z0-9._~-]{16,256}$`)

// errNotToken is the error for a file without a valid token.
var errNotToken = errors.New("does not contain a token: 16 to 256 letters, digits or ._~-")

// ReadToken returns the token in a file, or "" if file is empty. Its errors begin with the name of the
// setting and contain the file's path, but nothing of its content.
func ReadToken(setting, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", setting, err)
	}
	token := strings.TrimSpace(strings.TrimPrefix(string(text), "\ufeff")) // which editors of Windows write
	if !tokenForm().MatchString(token) {
		return "", fmt.Errorf("%s: %s %w", setting, file, errNotToken)
	}
	return token, nil
}

// token returns the token that clients must send, or "" if none is set.
func (s *Settings) token() (string, error) {
	token, err := ReadToken(EnvName("token-file"), s.TokenFile)
	if errors.Is(err, errNotToken) {
		err = fmt.Errorf("%w\nhint: make one with: openssl rand -hex 32", err)
	}
	return token, err
}
