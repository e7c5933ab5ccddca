//go:build integration

package isolation

import (
	"crypto/rand"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/devcache"
	"iglu.sh/builder/test/kit/fixture"
)

// TestTokensStayInside sends a job with tokens, a netrc and the key of a private cache. A build looks for them
// wherever its user can look, and the job's command looks for the cache's key. No secret is in an argument or an
// environment, and none is left after the job.
func TestTokensStayInside(t *testing.T) { fixture.OnEngines(t, tokensStayInside) }

func tokensStayInside(t *testing.T, e *fixture.Engine) {
	conf := filepath.Join(t.TempDir(), "nix.conf")
	if err := os.WriteFile(conf, []byte("access-tokens = operator.example="+fixture.AccessToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := e.Server(t, func(s *server.Settings) { s.NixConfFile = conf })
	cache := fixture.PrivateCache(t, devcache.Strict)
	look := "grep -rlsa" + pattern(fixture.AccessToken) + pattern(fixture.NetrcPassword) + pattern(fixture.APIKey) + pattern(fixture.SigningKey)
	const places = " /tmp /root /home /run /etc /var /dev/shm /iglu* /nix/var"
	script := look + places + ` && exit 9; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr "\0" "\n" | ` +
		look + ` - && exit 8; echo the build has looked; echo > $out`
	name := "tokens-" + strings.ToLower(rand.Text()[:10])
	if err := fixture.Env.Git.Commit(name, "main", map[string]string{"default.nix": fixture.Derivation(name, script)}); err != nil {
		t.Fatal(err)
	}
	job := func(command string) fixture.Job {
		j := cache.Pushing(fixture.Build(fixture.Env.Git.Public+"/"+name, command))
		j.Nix = schemas.Nix{
			AccessTokens: map[string]string{"one.example": fixture.AccessToken},
			Netrc:        "machine two.example login reader password " + fixture.NetrcPassword,
		}
		return j
	}
	got := fixture.Do(t, s, job("nix-build --no-out-link"))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "the build has looked")

	// The command has its tokens only in files. It does not have the key of the cache.
	ofCommand := `sh -c 'tr "\0" "\n" < /proc/self/environ | ` + look + ` - && exit 8; ` +
		`cat /proc/[0-9]*/cmdline | ` + look + ` - && exit 7; ` +
		"grep -rlsa" + pattern(fixture.APIKey) + pattern(fixture.SigningKey) + places + ` && exit 6; ` +
		"grep -rlsa" + pattern(fixture.NetrcPassword) + " /tmp; nix config show access-tokens'"
	got = fixture.Do(t, s, job(ofCommand))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "one.example=")
	fixture.WantLine(t, got, "operator.example=")
	fixture.WantLine(t, got, "/of-git") // the netrc

	// fixture.Client has checked that no message contains a secret.
	fixture.WantNoContainers(t, s)
	for _, volume := range s.OnEngine("volume") {
		folder := strings.TrimSpace(e.Docker(t, "volume", "inspect", "--format", "{{.Mountpoint}}", volume))
		wantNoSecrets(t, folder)
	}
	wantNoSecrets(t, filepath.Join(s.StateDir, s.Instance))
}

// pattern returns a pattern of grep for a text, written so that the pattern itself does not match.
func pattern(text string) string {
	return " -e " + text[:len(text)-4] + "[" + text[len(text)-4:len(text)-3] + "]"
}

// wantNoSecrets checks that no file below a folder contains a secret.
func wantNoSecrets(t *testing.T, folder string) {
	t.Helper()
	err := filepath.WalkDir(folder, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := fixture.CheckSecrets(string(text)); err != nil {
			t.Errorf("%s: a secret is in it", name)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestShownSecrets sends a job with secrets in its command line. They are masked wherever the command line is
// shown, and a line of the log says how to pass secrets.
func TestShownSecrets(t *testing.T) {
	t.Parallel()
	j := fixture.Command("nix eval --impure --expr 1 --option access-tokens one.example=" + fixture.AccessToken)
	j.BuildOptions.ExtraArgs = "--option netrc-file /dev/null --option extra-access-tokens 'https://reader:" + fixture.NetrcPassword + "@two.example'"
	s := fixture.OwnServer(t)
	got := fixture.Do(t, s, j) // Do checks each message for secrets
	for _, property := range []string{"nix.accessTokens", "nix.netrc"} {
		fixture.WantLine(t, got, "iglu: warning: the command line holds a secret, which other programs of the job can read; use "+property)
	}
	if _, body := s.Get(t, "GET", "/api/v1/jobs"); !strings.Contains(body, "one.example=***") {
		t.Errorf("the record does not show the command: %s", body)
	} else if err := fixture.CheckSecrets(body); err != nil {
		t.Error(err)
	}
	wantNoSecrets(t, filepath.Join(s.StateDir, s.Instance))
}
