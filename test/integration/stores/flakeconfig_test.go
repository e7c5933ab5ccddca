//go:build integration

package stores

import (
	"crypto/rand"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/test/kit/fixture"
)

// TestFlakeConfig builds a flake that sets a substituter and its key. The substituter has a false output. By default the
// builder ignores these settings and logs that. If the operator accepts settings of flakes, they are used. The false
// output is then in no store of jobs whose flake does not trust the substituter: not that of another branch, and not
// that of the next commit.
func TestFlakeConfig(t *testing.T) { fixture.OnEngines(t, flakeConfig) }

func flakeConfig(t *testing.T, e *fixture.Engine) {
	g := &fixture.Env.Git
	name := "config-" + strings.ToLower(rand.Text()[:10])
	flake := func(config string) map[string]string {
		return map[string]string{
			"flake.nix":   `{ ` + config + ` outputs = { self }: { packages.` + fixture.System + `.default = import ./default.nix; }; }`,
			"default.nix": strings.Replace(fixture.Derivation(name, "echo honest > $out"), "builtins.currentSystem", `"`+fixture.System+`"`, 1),
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(g.Commit(name, "main", flake("")))
	must(g.Commit(name, "honest", nil))
	job := fixture.Build(g.Public+"/"+name, "sh -c 'nix build --no-link --print-out-paths >/tmp/path && cat $(cat /tmp/path) && echo path $(cat /tmp/path)'")
	built := fixture.Do(t, storeServer(t, e, func(s *server.Settings) { s.Store = stores.Ephemeral }), job)
	fixture.WantExit(t, built, 0)
	cache, key := falseCache(t, pathIn(built))
	config := `nixConfig = { extra-substituters = [ "` + cache + `" ]; extra-trusted-public-keys = "` + key + `"; };`
	must(g.Overwrite(name, flake(config)))

	refusing := storeServer(t, e, func(*server.Settings) {})
	got := fixture.Do(t, refusing, job)
	fixture.WantLine(t, got, "honest")
	fixture.WantLine(t, got, "iglu: warning: the flake's own settings extra-substituters, extra-trusted-public-keys were ignored")

	accepting := storeServer(t, e, func(s *server.Settings) { s.FlakeConfig = true })
	got = fixture.Do(t, accepting, job)
	fixture.WantLine(t, got, "false")
	fixture.WantLine(t, got, "iglu: the flake's own settings count: substituters "+cache+", keys "+key)
	other := job
	other.Git.Branch = "honest"
	fixture.WantLine(t, fixture.Do(t, accepting, other), "honest")
	fixture.WantLine(t, fixture.Do(t, accepting, job), "false")
	must(g.Overwrite(name, flake("")))
	got = fixture.Do(t, accepting, job)
	fixture.WantLine(t, got, "honest")
	fixture.WantLine(t, got, "earlier jobs in it have trusted "+key)
}

// pathIn returns the store path that a job has printed.
func pathIn(r fixture.Result) string {
	for _, line := range r.Lines {
		if path, ok := strings.CutPrefix(line, "path "); ok {
			return path
		}
	}
	return ""
}
