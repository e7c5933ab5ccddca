package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/orchestrator"
)

const publicKey = "cache-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

func writeFile(t *testing.T, text string) string {
	name := filepath.Join(t.TempDir(), "nix.conf")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestReadNixConf(t *testing.T) {
	got, err := readNixConf(writeFile(t, `# of the operator
max-jobs = 3
extra-experimental-features = ca-derivations
extra-substituters = https://cache.example.com   https://other.example.com
extra-trusted-public-keys = `+publicKey+`
access-tokens = old.example=gone
access-tokens = GitHub.com=first
extra-access-tokens = GitLab.com/Group=PAT:second
extra-platforms = aarch64-linux # by an emulator
builders = ssh://builder x86_64-linux
`))
	want := orchestrator.NixSettings{
		Lines: "max-jobs = 3\nextra-experimental-features = ca-derivations\nextra-substituters = https://cache.example.com https://other.example.com\n" +
			"extra-trusted-public-keys = " + publicKey + "\nextra-platforms = aarch64-linux\nbuilders = ssh://builder x86_64-linux\n",
		AccessTokens: map[string]string{"github.com": "first", "gitlab.com/Group": "PAT:second"},
		PublicKeys:   []string{publicKey},
		Trust: []string{"extra-substituters = https://cache.example.com https://other.example.com", "extra-trusted-public-keys = " + publicKey,
			"builders = ssh://builder x86_64-linux"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	if got, err := readNixConf(""); err != nil || !cmp.Equal(got, orchestrator.NixSettings{}) {
		t.Errorf("without a file: %+v, error %v", got, err)
	}
}

// Errors have the number of the line, and no secrets.
func TestReadNixConfRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"max-jobs=3":                                     "line 1 is not of the form NAME = VALUE",
		"include /etc/nix/secret":                        "line 1 is not of the form NAME = VALUE",
		"a = 1\n\nsandbox = false":                       "line 3: sandbox cannot be set here: use IGLU_NIX_SANDBOX",
		"trusted-users = *":                              "line 1: trusted-users cannot be set here: use IGLU_JOB_USER",
		"build-users-group =":                            "line 1: build-users-group cannot be set here",
		"accept-flake-config = true":                     "line 1: accept-flake-config cannot be set here: use IGLU_ACCEPT_FLAKE_CONFIG",
		"extra-trusted-users = *":                        "line 1: extra-trusted-users cannot be set here: use IGLU_JOB_USER",
		"build-use-sandbox = false":                      "line 1: build-use-sandbox cannot be set here: use IGLU_NIX_SANDBOX",
		"experimental-features = nix-command":            "line 1: experimental-features cannot be set here",
		"binary-caches = secret":                         "line 1: binary-caches must be URLs",
		"access-tokens = secret":                         "line 1: access-tokens must be a list of HOST=TOKEN",
		"access-tokens = https://a=secret":               "line 1: access-tokens must be a list of HOST=TOKEN",
		"access-tokens = github.com=":                    "line 1: access-tokens must be a list of HOST=TOKEN",
		"substituters = cache.example.com":               "line 1: substituters must be URLs",
		"extra-substituters = https://secret:secret@a":   "line 1: extra-substituters must not hold a password",
		"trusted-public-keys = secret":                   "line 1: trusted-public-keys must be of the form NAME:KEY",
		"max-jobs = 1\x00secret":                         "line 1: max-jobs contains a control character",
		strings.Repeat("# a long comment\n", maxNixConf): "is larger than 98304 bytes",
	} {
		if _, err := readNixConf(writeFile(t, text)); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "IGLU_NIX_CONF_FILE: ") ||
			strings.Contains(err.Error(), "secret") {
			t.Errorf("%.60q: error %v, want %s", text, err, want)
		}
	}
	if _, err := readNixConf(filepath.Join(t.TempDir(), "none")); err == nil || !strings.HasPrefix(err.Error(), "IGLU_NIX_CONF_FILE: open ") {
		t.Errorf("without the file: error %v", err)
	}
}
