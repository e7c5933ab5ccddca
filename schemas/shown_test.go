package schemas

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/redact"
)

// Secrets in a command line are found and masked, like those in the properties for secrets.
func TestShown(t *testing.T) {
	for line, want := range map[string][]Shown{
		"nix build": nil,
		"nix build --option access-tokens github.com=ghp_secret":                       {{"ghp_secret", "nix.accessTokens"}},
		"nix build --access-tokens 'github.com=ghp_secret a.b/c=PAT:x'":                {{"ghp_secret", "nix.accessTokens"}, {"PAT:x", "nix.accessTokens"}, {"x", "nix.accessTokens"}},
		"nix build --option extra-access-tokens a=OAuth2:secret":                       {{"OAuth2:secret", "nix.accessTokens"}, {"secret", "nix.accessTokens"}},
		"nix build --extra-access-tokens a=secret":                                     {{"secret", "nix.accessTokens"}},
		"env 'NIX_CONFIG=access-tokens = a=secret b=other' nix build":                  {{"secret", "nix.accessTokens"}, {"other", "nix.accessTokens"}},
		"nix build --option access-tokens":                                             nil,
		"nix build --option access-tokens ''":                                          nil,
		"nix build git+https://user:pass%40word@host.example/r":                        {{"pass%40word", "nix.netrc"}, {"pass@word", "nix.netrc"}},
		"nix build --override-input a https://u:p@h https://v:q@h":                     {{"p", "nix.netrc"}, {"q", "nix.netrc"}},
		"nix build git+ssh://git@host.example:22/r":                                    nil,
		"nix build 'git+https://host.example/r?ref=a:b@c'":                             nil,
		"nix build 'https://host.example/r.tar.gz?private_token=secret&ref=x'":         {{"secret", "nix.netrc"}},
		"nix build 'https://host.example/r?narHash=sha256-x&rev=1'":                    nil,
		"nix develop -c sh -c 'nix build --option access-tokens one.example=secret-1'": {{"secret-1", "nix.accessTokens"}},
		"sh -c \"NIX_CONFIG='access-tokens = a.b=secret-2' nix build --x=value\"":      {{"secret-2", "nix.accessTokens"}},
		"nix build https://ghp_0123456789abcdef@github.com/a/b":                        {{"ghp_0123456789abcdef", "nix.netrc"}},
		"nix build git+https://oauth2@gitlab.com/a/b":                                  nil,
		"nix build \"open": nil,
	} {
		for name, options := range map[string]BuildOptions{"command": {Command: line}, "arguments": {Command: "nix", ExtraArgs: line}} {
			r := Request{BuildOptions: options}
			if diff := cmp.Diff(want, r.Shown()); diff != "" {
				t.Errorf("%s in the %s (-want +got):\n%s", line, name, diff)
			}
			masked := redact.New(r.Secrets()...).String(line)
			for _, shown := range want {
				if len(shown.Secret) >= 6 && strings.Contains(masked, shown.Secret) {
					t.Errorf("%s is shown as %s", line, masked)
				}
			}
		}
	}
}

// Each word of a line is looked at once, however often the line has the name of the setting. Otherwise one message could
// keep a server busy for hours, and fill its memory.
func TestShownManyTimes(t *testing.T) {
	const times = 200
	r := Request{BuildOptions: BuildOptions{Command: "nix " + strings.Repeat("access-tokens=a=secret ", times)}}
	if got := r.Shown(); len(got) != times || got[0].Secret != "secret" {
		t.Errorf("%d secrets in %d settings, the first %+v", len(got), times, got[:1])
	}
}

// Every secret of a job is masked, and tokens also without the prefix for their kind.
func TestSecrets(t *testing.T) {
	r := Request{
		Git:          Git{GitKey: "git-secret"},
		BuildOptions: BuildOptions{Cachix: Cachix{APIKey: "api-secret", SigningKey: "name:signing-secret"}},
		Nix: Nix{
			AccessTokens: map[string]string{"a": "plain-secret", "b": "PAT:pat-secret", "c": "OAuth2:oauth-secret"},
			Netrc:        "machine a login b password netrc-secret\n# password comment\nmachine c account account-secret\ndefault password \"quoted \\\"secret\"",
		},
	}
	redactor := redact.New(r.Secrets()...)
	for _, secret := range []string{
		"git-secret", "api-secret", "signing-secret", "plain-secret", "pat-secret", "oauth-secret", "netrc-secret", "account-secret", `quoted "secret`,
	} {
		if got := redactor.String("x " + secret + " y"); got != "x *** y" {
			t.Errorf("%s is shown: %s", secret, got)
		}
	}
	for _, plain := range []string{"machine", "comment", "password"} {
		if got := redactor.String(plain); got != plain {
			t.Errorf("%s is masked: %s", plain, got)
		}
	}
}
