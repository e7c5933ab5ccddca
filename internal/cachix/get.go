package cachix

import (
	"net/url"
	"path"

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

// GetCommand returns a command that downloads store paths from the cache at target, for a user whose Nix does
// not trust that cache yet. trustedKey may be empty.
func GetCommand(target, trustedKey string, paths []string) string {
	words := append([]string{"nix-store", "--realise"}, paths...)
	words = append(words, "--option", "extra-substituters", target)
	if trustedKey != "" {
		words = append(words, "--option", "extra-trusted-public-keys", trustedKey)
	}
	return shellwords.Join(words)
}
