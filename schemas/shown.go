package schemas

import (
	"net/url"
	"regexp"

	"iglu.sh/builder/internal/lazyregexp"
)

// A Shown is a secret in a job's command line. If it were not masked, everyone who sees the job would see it.
type Shown struct {
	Secret   string
	Property string // the property of a job that is meant for such secrets
}

const (
	accessTokensProperty = "nix.accessTokens"
	netrcProperty        = "nix.netrc"
)

// Shown returns the secrets in the job's command and its extra arguments: tokens of Nix's setting access-tokens,
// passwords in URLs, and tokens in queries. It finds them inside quotes too, as in 'sh -c'.
func (r *Request) Shown() []Shown {
	var shown []Shown
	for _, line := range []string{r.BuildOptions.Command, r.BuildOptions.ExtraArgs} {
		shown = append(shown, shownTokens(line)...)
		shown = append(shown, shownInURLs(line)...)
	}
	return shown
}

var (
	// tokensBegin matches the text before the words HOST=TOKEN of the setting, in a command line or a line
	// of settings.
	tokensBegin = lazyregexp.New(`access-tokens[\s='"\\]+`)
	// tokenWord matches such a word up to a quote.
	tokenWord = lazyregexp.New(`^\s*[A-Za-z0-9][A-Za-z0-9.:/_~-]*=([^\s'"\\]+)`)
)

func shownTokens(line string) []Shown {
	var shown []Shown
	begins := tokensBegin().FindAllStringIndex(line, -1)
	for i, at := range begins {
		rest := line[at[1]:]
		if i+1 < len(begins) { // the rest is looked at from there, and not twice
			rest = line[at[1]:begins[i+1][0]]
		}
		for m := tokenWord().FindStringSubmatchIndex(rest); m != nil; m = tokenWord().FindStringSubmatchIndex(rest) {
			token := rest[m[2]:m[3]]
			shown = append(shown, Shown{token, accessTokensProperty})
			if bare := BareToken(token); bare != token {
				shown = append(shown, Shown{bare, accessTokensProperty})
			}
			rest = rest[m[1]:]
		}
	}
	return shown
}

// urlSecrets match secrets in URLs (RFC 3986). A password that is not encoded may contain an @. Quotes end a
// URL in a command line.
var urlSecrets = []func() *regexp.Regexp{
	// The password.
	lazyregexp.New(`[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s:@'"]*:([^/?#\s'"]+)@`),
	// A token as the user, which hosts of git accept. No user name is so long.
	lazyregexp.New(`https?://([^/?#\s:@'"]{16,})@`),
	// A token in the query, with the names that hosts of git and caches use.
	lazyregexp.New(`[?&](?:access_token|private_token|oauth_token|job_token|token|password)=([^&#\s'"]+)`),
}

func shownInURLs(line string) []Shown {
	var shown []Shown
	for _, form := range urlSecrets {
		for _, m := range form().FindAllStringSubmatch(line, -1) {
			shown = append(shown, Shown{m[1], netrcProperty})
			if decoded, err := url.PathUnescape(m[1]); err == nil && decoded != m[1] {
				shown = append(shown, Shown{decoded, netrcProperty})
			}
		}
	}
	return shown
}
