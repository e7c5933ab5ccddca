package cachix

import (
	"net/url"
	"path"
	"strings"

	"iglu.sh/builder/internal/shellwords"
)

// TrustedKey returns the public key, in the format NAME:BASE64, with which Nix trusts the paths that were
// signed with signingKey for the cache at target. It returns "" if there is no signing key: then the cache
// signs.
func TrustedKey(target, signingKey string) string {
	u, err := url.Parse(target)
	if err != nil {
		return ""
	}
	key, err := ParseSigningKey(signingKey)
	if err != nil {
		return ""
	}
	return path.Base(u.Path) + ":" + key.Public()
}

// GetCommand returns a command that downloads store paths from the cache that can be read at an address, for a user
// whose Nix does not trust that cache yet. trustedKeys may be empty.
func GetCommand(address string, trustedKeys, paths []string) string {
	words := append([]string{"nix-store", "--realise"}, paths...)
	words = append(words, "--option", "extra-substituters", address)
	if len(trustedKeys) > 0 {
		words = append(words, "--option", "extra-trusted-public-keys", strings.Join(trustedKeys, " "))
	}
	return shellwords.Join(words)
}
