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

// TestPrivateCache runs a job that pushes to a private cache, which requires its API key for reading. Another job with
// its own store that pushes to the cache also reads from it. A job that only reads needs a netrc. Without either, the
// path is built again. It is also built again if the cache does not accept the credentials that Nix can send.
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

	// A private cache of Iglu Cache cannot be read, even with credentials.
	iglu := fixture.PrivateCache(t, devcache.Standalone)
	got := fixture.Do(t, s, iglu.Pushing(job))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "iglu: the cache is private, and Nix cannot read it: nothing is downloaded from it")
	fixture.WantLine(t, got, "iglu: warning: the cache cannot be read from here: what is pushed will not be checked")
	fixture.WantNames(t, iglu, []string{name})
}
