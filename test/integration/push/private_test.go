//go:build integration

package push

import (
	"crypto/rand"
	"slices"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/devcache"
	"iglu.sh/builder/test/kit/fixture"
)

// TestPrivateCache has a job push to a cache that only who has its API key may read. Another job that
// pushes to it, in a store of its own, takes what is there, without being told more; one that only
// reads takes it with a netrc. Without either it is built again, as it is where the cache does not
// take what Nix can show it.
func TestPrivateCache(t *testing.T) { fixture.OnEngines(t, privateCache) }

func privateCache(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(s *server.Settings) { s.Store = stores.Ephemeral })
	cache := fixture.PrivateCache(t, devcache.Strict)
	name := "private-" + strings.ToLower(rand.Text()[:10])
	if err := fixture.Env.Git.Commit(name, "main", map[string]string{"default.nix": fixture.Derivation(name, "echo it is built; echo > $out")}); err != nil {
		t.Fatal(err)
	}
	job := fixture.Build(fixture.Env.Git.Public+"/"+name, "nix-build --no-out-link")
	wantBuilt := func(t *testing.T, j fixture.Job, want bool) {
		t.Helper()
		got := fixture.Do(t, s, j)
		fixture.WantExit(t, got, 0)
		if built := slices.Contains(got.Lines, "it is built"); built != want {
			t.Errorf("it was built: %v, want %v\n%s", built, want, strings.Join(got.Lines, "\n"))
		}
	}
	wantBuilt(t, cache.Pushing(job), true)
	fixture.WantNames(t, cache, []string{name})
	wantBuilt(t, cache.Pushing(job), false)

	reads := job
	reads.BuildOptions.Substituters = []string{cache.URL}
	reads.BuildOptions.TrustedPublicKeys = []string{"default:" + fixture.PublicKey(t)}
	reads.BuildOptions.ExtraArgs = "--option fallback true"
	wantBuilt(t, reads, true)
	host := strings.TrimPrefix(cache.URL, "http://")
	host = host[:strings.IndexByte(host, ':')]
	reads.Nix = schemas.Nix{Netrc: "machine " + host + " login any password " + fixture.APIKey}
	wantBuilt(t, reads, false)

	// Nobody reads a private cache of Iglu Cache, whatever he shows.
	iglu := fixture.PrivateCache(t, devcache.Standalone)
	got := fixture.Do(t, s, iglu.Pushing(job))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "iglu: the cache is private, and Nix cannot read it: nothing is taken from it")
	fixture.WantLine(t, got, "iglu: warning: the cache cannot be read from here: what is pushed will not be checked")
	fixture.WantNames(t, iglu, []string{name})
}
