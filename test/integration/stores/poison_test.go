//go:build integration

package stores

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iglu.sh/builder/internal/cachix"
	"iglu.sh/builder/internal/nar"
	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/test/kit/fixture"
)

// The tests in this file attack the store that a job leaves to the next job of its repository. In 'make test-all', each
// attack is also made by a job that runs as root (IGLU_JOB_USER), and succeeds. This shows that it otherwise fails
// because jobs do not run as root.

// eachUser runs a test with a builder whose jobs do not run as root, and in the long suite also with one whose jobs do.
func eachUser(t *testing.T, e *fixture.Engine, test func(t *testing.T, s *fixture.Server, isRoot bool)) {
	users := []orchestrator.JobUser{orchestrator.UserNix, orchestrator.UserRoot}
	for _, user := range users[:fixture.Size(1, 2)] {
		t.Run(string(user), func(t *testing.T) {
			s := storeServer(t, e, func(s *server.Settings) { s.JobUser = user })
			test(t, s, user == orchestrator.UserRoot)
		})
	}
}

// wantAttack checks that an attack succeeded if the job runs as root, and failed otherwise.
func wantAttack(t *testing.T, r fixture.Result, isRoot bool) {
	t.Helper()
	if isRoot {
		fixture.WantExit(t, r, 0)
	} else {
		fixture.WantExit(t, r, 1)
		fixture.WantLine(t, r, "ermission denied")
	}
}

// TestFalsePrograms runs a job that replaces git for the next job. The false git would get the next job's credentials.
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

// TestFalseOutput runs a job that changes the output of an earlier job and registers its new hash. The next job would
// push an output that its derivation did not build.
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

		// The same with a path that no job has built.
		register := `sh -c 'printf "/nix/store/00000000000000000000000000000000-x\n\n0\n" | nix-store --register-validity --hash-given || exit 1'`
		got := fixture.Do(t, s, fixture.Build(url, register))
		if !isRoot {
			fixture.WantExit(t, got, 1)
		}
	})
}

// TestForeignKey runs a job that trusts a cache of an attacker, which has a false output of a valid derivation. The next
// job of the repository does not trust the cache, and builds the derivation itself.
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
	fixture.WantLine(t, fixture.Do(t, s, attack), "false") // this job has another store

	// With a shared store, all jobs trust each other, and the next job gets the false output.
	s = storeServer(t, e, func(s *server.Settings) { s.Store = stores.Shared })
	fixture.WantLine(t, fixture.Do(t, s, attack), "false")
	fixture.WantLine(t, fixture.Do(t, s, look), "false")
}

// TestForgeableStores enables content-addressed derivations, of which a job can forge the results, in the operator's lines
// and in the job image. No job has the store of an earlier one.
func TestForgeableStores(t *testing.T) { fixture.OnEngines(t, forgeableStores) }

func forgeableStores(t *testing.T, e *fixture.Engine) {
	const enable = "extra-experimental-features = ca-derivations"
	conf := filepath.Join(t.TempDir(), "nix.conf")
	if err := os.WriteFile(conf, []byte(enable+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	image := "iglu-test-forgeable:" + strings.ToLower(rand.Text())
	container := e.Docker(t, "create", fixture.Env.Image, "bash", "-ec",
		"conf=$(cat /etc/nix/nix.conf); rm /etc/nix/nix.conf; printf '%s\n' \"$conf\" '"+enable+"' > /etc/nix/nix.conf")
	e.CleanUp(t, "rm", container)
	e.Docker(t, "start", "--attach", container)
	e.Commit(t, container, image, "CMD []")
	e.CleanUp(t, "rmi", image)
	for name, test := range map[string]struct {
		change func(*server.Settings)
		line   string // of the second job; empty: it has no store to begin with
	}{
		"operator": {func(s *server.Settings) { s.NixConfFile = conf }, ""},
		"image":    {func(s *server.Settings) { s.JobImage = image }, "iglu: the job cannot begin with this store: the job image's nix.conf enables ca-derivations"},
	} {
		t.Run(name, func(t *testing.T) {
			s := storeServer(t, e, test.change)
			job := fixture.Build(repository(t, "echo it is built now; echo > $out"), "nix-build")
			for n := range 2 {
				got := fixture.Do(t, s, job)
				fixture.WantExit(t, got, 0)
				fixture.WantLine(t, got, "it is built now")
				if test.line != "" && n > 0 {
					fixture.WantLine(t, got, test.line)
				}
				if test.line == "" && hasLine(got, fillingStore) {
					t.Errorf("job %d has a store that is kept: %v", n, got.Lines)
				}
			}
		})
	}
}

// falseCache serves a cache in which a path is a file with the text "false", and returns its URL and its key.
func falseCache(t *testing.T, path string) (url, key string) {
	t.Helper()
	cache := fixture.EmptyCache(t)
	private := ed25519.NewKeyFromSeed([]byte("the key of a cache that is false"))
	signing, err := cachix.ParseSigningKey(base64.StdEncoding.EncodeToString(private))
	if err != nil {
		t.Fatal(err)
	}
	client, err := cachix.New(cache.URL, fixture.APIKey, cachix.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	file := filepath.Join(t.TempDir(), "output")
	if err := errors.Join(cache.AddKey("default", signing.Public()), os.WriteFile(file, []byte("false\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	p := pathOf(t, file, path)
	if _, err := client.Push(t.Context(), p, func(w io.Writer) error { return nar.Dump(w, file) }, signing); err != nil {
		t.Fatal(err)
	}
	return cache.URL, "default:" + signing.Public()
}

// pathOf returns the metadata of a store path with the content of a file.
func pathOf(t *testing.T, file, path string) cachix.Path {
	t.Helper()
	p := fixture.CachePath(t, file, "any")
	p.StorePath = path
	return p
}
