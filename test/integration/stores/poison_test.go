//go:build integration

package stores

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"iglu.sh/builder/internal/cachix"
	"iglu.sh/builder/internal/nar"
	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/test/kit/fixture"
)

// This file is attacks on what a job leaves to the next of its repository. Each is made by
// a job of root as well (IGLU_JOB_USER) in 'make test-all', where it succeeds: so it fails because
// jobs are not root.

// eachUser runs a test with a builder whose jobs are not root, and in the long suite with one whose
// jobs are.
func eachUser(t *testing.T, e *fixture.Engine, test func(t *testing.T, s *fixture.Server, isRoot bool)) {
	users := []orchestrator.JobUser{orchestrator.UserNix, orchestrator.UserRoot}
	for _, user := range users[:fixture.Size(1, 2)] {
		t.Run(string(user), func(t *testing.T) {
			s := storeServer(t, e, func(s *server.Settings) { s.JobUser = user })
			test(t, s, user == orchestrator.UserRoot)
		})
	}
}

// wantAttack checks that root could do something, and that others could not.
func wantAttack(t *testing.T, r fixture.Result, isRoot bool) {
	t.Helper()
	if isRoot {
		fixture.WantExit(t, r, 0)
	} else {
		fixture.WantExit(t, r, 1)
		fixture.WantLine(t, r, "ermission denied")
	}
}

// TestFalsePrograms has a job put another program in the place of the git that the next one runs,
// which would be given that one's credentials.
func TestFalsePrograms(t *testing.T) { fixture.OnEngines(t, falsePrograms) }

func falsePrograms(t *testing.T, e *fixture.Engine) {
	eachUser(t, e, func(t *testing.T, s *fixture.Server, isRoot bool) {
		url := repository(t, "echo > $out")
		attack := `sh -c 'git=$(readlink -f $(command -v git)); printf "#!/bin/sh\ncase \$1 in --version) exit;; esac\necho a false git runs\nexit 77\n" > /tmp/git && ` +
			`chmod 755 /tmp/git && rm -f $git && cp /tmp/git $git || exit 1'`
		wantAttack(t, fixture.Do(t, s, fixture.Build(url, attack)), isRoot)
		next := fixture.Do(t, s, fixture.Build(url, "nix-build"))
		if isRoot {
			fixture.WantExit(t, next, 77)
			fixture.WantLine(t, next, "a false git runs")
		} else {
			fixture.WantExit(t, next, 0)
		}
	})
}

// TestFalseOutput has a job change what an earlier one has built, and register its new hash: what
// the next one pushes is not what its derivation yields.
func TestFalseOutput(t *testing.T) { fixture.OnEngines(t, falseOutput) }

func falseOutput(t *testing.T, e *fixture.Engine) {
	eachUser(t, e, func(t *testing.T, s *fixture.Server, isRoot bool) {
		url := repository(t, "echo honest > $out")
		attack := `sh -c 'path=$(nix-build) && rm -f $path && echo false > $path && ` +
			`printf "%s\n\n0\n" $path | nix-store --register-validity --reregister || exit 1'`
		wantAttack(t, fixture.Do(t, s, fixture.Build(url, attack)), isRoot)
		next := fixture.Do(t, s, fixture.Build(url, "sh -c 'cat $(nix-build)'"))
		fixture.WantExit(t, next, 0)
		fixture.WantLine(t, next, map[bool]string{true: "false", false: "honest"}[isRoot])

		// Likewise a path that nobody has built.
		register := `sh -c 'printf "/nix/store/00000000000000000000000000000000-x\n\n0\n" | nix-store --register-validity --hash-given || exit 1'`
		got := fixture.Do(t, s, fixture.Build(url, register))
		if !isRoot {
			fixture.WantExit(t, got, 1)
		}
	})
}

// TestForeignKey has a job trust a cache of its sender's, which has a false output for an honest
// derivation. The next job of the repository does not trust it, and builds.
func TestForeignKey(t *testing.T) { fixture.OnEngines(t, foreignKey) }

func foreignKey(t *testing.T, e *fixture.Engine) {
	url := repository(t, "echo honest > $out")
	s := storeServer(t, e, func(*server.Settings) {})
	look := fixture.Build(url, "sh -c 'cat $(nix-build)'")
	built := fixture.Do(t, storeServer(t, e, func(s *server.Settings) { s.Store = stores.Ephemeral }), fixture.Build(url, "sh -c 'echo path $(nix-build)'"))
	fixture.WantExit(t, built, 0)
	cache, key := falseCache(t, pathIn(built))
	attack := look
	attack.BuildOptions.Substituters, attack.BuildOptions.TrustedPublicKeys = []string{cache}, []string{key}
	fixture.WantLine(t, fixture.Do(t, s, attack), "false")
	fixture.WantLine(t, fixture.Do(t, s, look), "honest")
	fixture.WantLine(t, fixture.Do(t, s, attack), "false") // whose store is another

	// Where all jobs trust each other, they do.
	s = storeServer(t, e, func(s *server.Settings) { s.Store = stores.Shared })
	fixture.WantLine(t, fixture.Do(t, s, attack), "false")
	fixture.WantLine(t, fixture.Do(t, s, look), "false")
}

// falseCache serves a cache with a file that says so in the place of a path, and returns its
// address and its key.
func falseCache(t *testing.T, path string) (url, key string) {
	t.Helper()
	url = fixture.StartCache(t, t.TempDir())
	private := ed25519.NewKeyFromSeed([]byte("the key of a cache that is false"))
	signing, err := cachix.ParseSigningKey(base64.StdEncoding.EncodeToString(private))
	if err != nil {
		t.Fatal(err)
	}
	client, err := cachix.New(url, fixture.APIKey, cachix.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	file := filepath.Join(t.TempDir(), "output")
	if err := errors.Join(client.Register(t.Context(), signing), os.WriteFile(file, []byte("false\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	p := pathOf(t, file, path)
	if _, err := client.Push(t.Context(), p, func(w io.Writer) error { return nar.Dump(w, file) }, signing); err != nil {
		t.Fatal(err)
	}
	return url, "default:" + signing.Public()
}

// pathOf returns a store path with the content of a file.
func pathOf(t *testing.T, file, path string) cachix.Path {
	t.Helper()
	p := fixture.CachePath(t, file, "any")
	p.StorePath = path
	return p
}
