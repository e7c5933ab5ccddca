package schemas

import (
	"net/url"
	"regexp"

	"iglu.sh/builder/internal/lazyregexp"
)

// A Shown is a secret that stands in a job's command line, where all who see the job would see
// it if it were not masked.
type Shown struct {
	Secret   string
	Property string // of a job, that is for such secrets
}

const (
	accessTokensProperty = "nix.accessTokens"
	netrcProperty        = "nix.netrc"
)

// Shown returns the secrets in the job's command and its extra arguments: Nix's setting
// access-tokens, passwords in URLs, and tokens in their queries. They are found also inside of
// quotes, as in a command of 'sh -c'.
func (r *Request) Shown() []Shown {
	var shown []Shown
	for _, line := range []string{r.BuildOptions.Command, r.BuildOptions.ExtraArgs} {
		shown = append(shown, shownTokens(line)...)
		shown = append(shown, shownInURLs(line)...)
	}
	return shown
}

var (
	// tokensBegin is what comes before the words HOST=TOKEN of the setting, on a command line or in
	// a line of settings.
	tokensBegin = lazyregexp.New(`access-tokens[\s='"\\]+`)
	// tokenWord is such a word, as far as it reaches without quotes.
	tokenWord = lazyregexp.New(`^\s*[A-Za-z0-9][A-Za-z0-9.:/_~-]*=([^\s'"\\]+)`)
)

func shownTokens(line string) []Shown {
	var shown []Shown
	for _, at := range tokensBegin().FindAllStringIndex(line, -1) {
		rest := line[at[1]:]
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

// In URLs, for which see RFC 3986, a password that was not encoded may hold an @. Quotes end a URL
// in a command line.
var urlSecrets = []func() *regexp.Regexp{
	// The password.
	lazyregexp.New(`[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s:@'"]*:([^/?#\s'"]+)@`),
	// A token in the place of the user, which hosts of git take; no name is so long.
	lazyregexp.New(`https?://([^/?#\s:@'"]{16,})@`),
	// A token in the query, by the names that hosts of git and caches give it.
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
