//go:build integration && long

package stores

import (
	"context"
	"crypto/rand"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

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

// TestFalseSize has a job put another program in the place of the one that was once asked for a
// store's size. It is believed by whoever asks it, and upkeep does not.
func TestFalseSize(t *testing.T) { fixture.OnEngines(t, falseSize) }

func falseSize(t *testing.T, e *fixture.Engine) {
	eachUser(t, e, func(t *testing.T, s *fixture.Server, isRoot bool) {
		const size = "-9000000000000000"
		url := repository(t, "echo > $out")
		attack := `sh -c 'bin=$(readlink -f $(dirname $(command -v nix-store))) && rm -f $bin/nix-store && ` +
			`printf "#!/bin/sh\necho ` + size + `\n" > $bin/nix-store && chmod 755 $bin/nix-store || exit 1'`
		wantAttack(t, fixture.Do(t, s, fixture.Build(url, attack)), isRoot)
		said := e.Docker(t, "run", "--rm", "--volume", storeVolumes(t, s)[0]+":/nix", fixture.Env.Image, "sh", "-c", "nix-store --version")
		if strings.Contains(said, size) != isRoot {
			t.Errorf("the store's own program says %s", said)
		}
		if err := fixture.AwaitState(t, s, `"measured":true`); err != nil {
			t.Fatalf("the store is not measured: %v", err)
		}
		entry := regexp.MustCompile(`"bytes":(-?\d+)`).FindStringSubmatch(fixture.StoresState(t, s))
		if bytes, err := strconv.ParseInt(entry[1], 10, 64); err != nil || bytes < 50_000_000 || bytes > 1_000_000_000 {
			t.Errorf("upkeep says %s, %v", entry[1], err)
		}
	})
}

// TestStubbornJob has a job ignore that it is asked to end. Its container ends all the same when its
// builder is gone.
func TestStubbornJob(t *testing.T) { fixture.OnEngines(t, stubbornJob) }

func stubbornJob(t *testing.T, e *fixture.Engine) {
	for _, user := range []string{"root", "nix"} {
		s := e.Process(t, "test-process-"+strings.ToLower(rand.Text()[:10]), "--job-image", fixture.Env.Image,
			"--allowed-commands", "sh", "--job-user", user)
		c := fixture.Connect(t, s)
		c.Send(fixture.JSONOf(t, fixture.Command(`sh -c 'exec 2>&1; trap "" TERM; echo begun; while :; do sleep 1; done'`)))
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
