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

// TestFalseTrust runs a job that tries to change the trusted certificates and the addresses of hosts for the next job.
func TestFalseTrust(t *testing.T) { fixture.OnEngines(t, falseTrust) }

func falseTrust(t *testing.T, e *fixture.Engine) {
	eachUser(t, e, func(t *testing.T, s *fixture.Server, isRoot bool) {
		url := repository(t, "echo > $out")
		for _, file := range []string{"$SSL_CERT_FILE", "/etc/hosts", "/etc/passwd", "/etc/nix/nix.conf", "/nix/var/nix/db/db.sqlite"} {
			wantAttack(t, fixture.Do(t, s, fixture.Build(url, `sh -c 'nix store info; echo >> `+file+` || exit 1'`)), isRoot)
		}
	})
}

// TestUselessStore runs a job that removes what every job needs. The next job gets another store.
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

// TestFalseSize runs a job that replaces the program that once measured a store. The new program reports a false size.
// The builder's maintenance does not use it.
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
			t.Errorf("the program in the store reports %s", said)
		}
		if err := fixture.AwaitState(t, s, `"measured":true`); err != nil {
			t.Fatalf("the store is not measured: %v", err)
		}
		entry := regexp.MustCompile(`"bytes":(-?\d+)`).FindStringSubmatch(fixture.StoresState(t, s))
		if bytes, err := strconv.ParseInt(entry[1], 10, 64); err != nil || bytes < 50_000_000 || bytes > 1_000_000_000 {
			t.Errorf("the maintenance reports %s, %v", entry[1], err)
		}
	})
}

// TestStubbornJob runs a job that ignores SIGTERM. Its container still ends after its builder is killed.
func TestStubbornJob(t *testing.T) { fixture.OnEngines(t, stubbornJob) }

func stubbornJob(t *testing.T, e *fixture.Engine) {
	for _, user := range []string{"root", "nix"} {
		s := e.Process(t, "test-process-"+strings.ToLower(rand.Text()[:10]), "--job-image", fixture.Env.Image,
			"--allowed-commands", "sh", "--job-user", user)
		c := fixture.Connect(t, s)
		c.Send(fixture.JSONOf(t, fixture.Command(`sh -c 'exec 2>&1; trap "" TERM; echo begun; while :; do sleep 1; done'`)))
		c.WaitFor(`"begun"`)
		container := s.JobContainer(t)
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
		t.Errorf("the container is still running: %v", err)
	}
}

// TestPrivateCaches runs jobs with a key. Other jobs do not get their caches of fetched and evaluated sources.
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
	fixture.WantExit(t, fixture.Do(t, s, fixture.Build(private, metadata)), 128) // without the key, the clone fails
}
