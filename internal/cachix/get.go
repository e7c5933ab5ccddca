package cachix

import (
	"net/url"
	"path"

	"iglu.sh/builder/internal/shellwords"
)

// TrustedKey returns the key by which Nix trusts what a signing key has signed for the cache at an address:
// NAME:BASE64. It is empty if there is no such key, and the cache signs.
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

// GetCommand returns the command that gets store paths from the cache at an address, for somebody who does
// not trust it yet. trustedKey may be empty.
func GetCommand(target, trustedKey string, paths []string) string {
	words := append([]string{"nix-store", "--realise"}, paths...)
	words = append(words, "--option", "extra-substituters", target)
	if trustedKey != "" {
		words = append(words, "--option", "extra-trusted-public-keys", trustedKey)
	}
	return shellwords.Join(words)
}
