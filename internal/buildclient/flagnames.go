package buildclient

import "iglu.sh/builder/internal/lazyregexp"

// flagNames are the flags for the properties of a job that a builder's sentences have.
var flagNames = map[string]string{
	"git.repository":                 "--repo",
	"git.branch":                     "--branch",
	"git.gitUsername":                "--git-user",
	"git.gitKey":                     "--git-key-file",
	"gitKey":                         "--git-key-file",
	"buildOptions.command":           "--command",
	"buildOptions.extraArgs":         "--arg",
	"buildOptions.cores":             "--cores",
	"buildOptions.maxJobs":           "--max-jobs",
	"buildOptions.substituters":      "--substituter",
	"buildOptions.trustedPublicKeys": "--trusted-public-key",
	"buildOptions.cachix.target":     "--push-to",
	"buildOptions.cachix.apiKey":     "--api-key-file",
	"buildOptions.cachix.signingKey": "--signing-key-file",
	"nix.accessTokens":               "--access-token-file",
	"nix.netrc":                      "--netrc-file",
	"system":                         "--system",
}

// propertyName matches what can be the name of a property in a sentence. That of system is only at the beginning of a
// problem, because it is a word.
var propertyName = lazyregexp.New(`\b(git|buildOptions|nix)(\.[A-Za-z]+)+\b|\bgitKey\b|^system\b`)

// withFlagNames returns a builder's sentences with the names of flags instead of those of properties.
func withFlagNames(text string) string {
	return propertyName().ReplaceAllStringFunc(text, func(name string) string {
		if flag, ok := flagNames[name]; ok {
			return flag
		}
		return name
	})
}
