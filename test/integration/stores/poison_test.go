//go:build integration

package stores

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/cachix"
	"iglu.sh/builder/internal/nar"
	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/test/kit/fixture"
)

// This file is attacks on what a job leaves to the next of its repository. Each is made by
// a job of root as well (IGLU_JOB_USER), where it succeeds: so it fails because jobs are not root.

// eachUser runs a test with a builder whose jobs are root, and one whose jobs are not.
func eachUser(t *testing.T, e *fixture.Engine, test func(t *testing.T, s *fixture.Server, isRoot bool)) {
	for _, user := range []orchestrator.JobUser{orchestrator.UserRoot, orchestrator.UserNix} {
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
		attack := `sh -c 'git=$(readlink -f $(command -v git)); printf "#!/bin/sh\necho a false git runs\nexit 77\n" > /tmp/git && ` +
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

// TestFalseTrust has a job add to the certificates that the next one trusts, and say where hosts
// are.
func TestFalseTrust(t *testing.T) { fixture.OnEngines(t, falseTrust) }

func falseTrust(t *testing.T, e *fixture.Engine) {
	eachUser(t, e, func(t *testing.T, s *fixture.Server, isRoot bool) {
		url := repository(t, "echo > $out")
		for _, file := range []string{"$SSL_CERT_FILE", "/etc/hosts", "/etc/passwd", "/etc/nix/nix.conf", "/nix/var/nix/db/db.sqlite"} {
			wantAttack(t, fixture.Do(t, s, fixture.Build(url, `sh -c 'nix store info; echo >> `+file+` || exit 1'`)), isRoot)
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

// TestUselessStore has a job remove what every job needs. The next one begins with another
// store.
func TestUselessStore(t *testing.T) { fixture.OnEngines(t, uselessStore) }

func uselessStore(t *testing.T, e *fixture.Engine) {
	for _, folder := range []string{"/nix/var/nix/profiles", "/nix/var/nix/db"} {
		eachUser(t, e, func(t *testing.T, s *fixture.Server, isRoot bool) {
			url := repository(t, "echo > $out")
			fixture.WantExit(t, fixture.Do(t, s, fixture.Build(url, "nix-build")), 0)
			wantAttack(t, fixture.Do(t, s, fixture.Build(url, `sh -c 'rm -rf `+folder+`/* || exit 1'`)), isRoot)
			next := fixture.Do(t, s, fixture.Build(url, "nix-build"))
			fixture.WantExit(t, next, 0)
			if hasLine(next, "the store is removed, and the job begins again with a fresh one") != isRoot {
				t.Errorf("got %q", next.Lines)
			}
		})
	}
}

// TestBlockedMark has a job keep its container from saying that it has ended, by a pipe in
// the place of what says so. It ends all the same when its builder is gone.
func TestBlockedMark(t *testing.T) { fixture.OnEngines(t, blockedMark) }

func blockedMark(t *testing.T, e *fixture.Engine) {
	for _, user := range []string{"root", "nix"} {
		s := e.Process(t, "test-process-"+strings.ToLower(rand.Text()[:10]), "--job-image", fixture.Env.Image,
			"--allowed-commands", "sh", "--job-user", user)
		c := fixture.Connect(t, s)
		c.Send(fixture.JSONOf(t, fixture.Command(`sh -c 'mkfifo /iglu-ended /iglu-unpushed; exec 2>&1; trap "" TERM; echo begun; while :; do sleep 1; done'`)))
		c.WaitFor(`"begun"`)
		container := s.Containers()[0]
		s.Kill()
		wantContainerEnd(t, e, container, time.Minute)
		e.Docker(t, "rm", container)
		fixture.RemoveAll(e.Host, s.Instance)
	}
}

// wantContainerEnd waits for the end of a container.
func wantContainerEnd(t *testing.T, e *fixture.Engine, container string, latest time.Duration) {
	t.Helper()
	engine, err := fixture.EngineAt(e.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	ctx, cancel := context.WithTimeout(t.Context(), latest)
	defer cancel()
	ended, failed := engine.ContainerWait(ctx, container, "not-running")
	select {
	case <-ended:
	case err := <-failed:
		t.Errorf("the container runs on: %v", err)
	}
}

// TestForeignKey has a job trust a cache of its sender's, which has a false output for an honest
// derivation. The next job of the repository does not trust it, and builds.
func TestForeignKey(t *testing.T) { fixture.OnEngines(t, foreignKey) }

func foreignKey(t *testing.T, e *fixture.Engine) {
	url := repository(t, "echo honest > $out")
	s := storeServer(t, e, func(*server.Settings) {})
	look := fixture.Build(url, "sh -c 'cat $(nix-build)'")
	built := fixture.Do(t, storeServer(t, e, func(s *server.Settings) { s.Store = orchestrator.StoreEphemeral }), fixture.Build(url, "sh -c 'echo path $(nix-build)'"))
	fixture.WantExit(t, built, 0)
	var path string
	for _, line := range built.Lines {
		if p, ok := strings.CutPrefix(line, "path "); ok {
			path = p
		}
	}
	cache, key := falseCache(t, path)
	attack := look
	attack.BuildOptions.Substituters, attack.BuildOptions.TrustedPublicKeys = []string{cache}, []string{key}
	fixture.WantLine(t, fixture.Do(t, s, attack), "false")
	fixture.WantLine(t, fixture.Do(t, s, look), "honest")
	fixture.WantLine(t, fixture.Do(t, s, attack), "false") // whose store is another

	// Where all jobs trust each other, they do.
	s = storeServer(t, e, func(s *server.Settings) { s.Store = orchestrator.StoreShared })
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

// TestPrivateCaches has jobs with a key, whose caches of what was fetched and evaluated are nobody
// else's.
func TestPrivateCaches(t *testing.T) { fixture.OnEngines(t, privateCaches) }

func privateCaches(t *testing.T, e *fixture.Engine) {
	g := &fixture.Env.Git
	s := storeServer(t, e, func(*server.Settings) {})
	url := repository(t, "echo > $out")
	metadata := "nix flake metadata git+" + g.Private + "/hello"
	look := `sh -c 'cache=${XDG_CACHE_HOME:-$HOME/.cache}; find $cache -type f -exec echo found {} +; mkdir -p $cache && echo > $cache/mine'`
	private := strings.Replace(url, g.Public, g.Private, 1)
	fixture.WantExit(t, fixture.Do(t, s, g.WithKey(fixture.Build(private, metadata), fixture.GitPassword)), 0)
	for range 2 {
		got := fixture.Do(t, s, g.WithKey(fixture.Build(private, look), fixture.GitPassword))
		fixture.WantExit(t, got, 0)
		if slices.ContainsFunc(got.Lines, func(line string) bool { return strings.HasPrefix(line, "found ") }) {
			t.Errorf("the caches of another job: %q", got.Lines)
		}
	}
	fixture.WantExit(t, fixture.Do(t, s, fixture.Build(private, metadata)), 128) // which cannot be cloned
}
