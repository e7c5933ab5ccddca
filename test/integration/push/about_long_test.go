//go:build integration && long

package push

import (
	"fmt"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/test/kit/devcache"
	"iglu.sh/builder/test/kit/fixture"
)

// TestAboutOften runs a job with hundreds of short Nix commands, while other processes keep the machine busy. Each
// command uses one path that an earlier job has built. All of these paths are pushed. Four commands run at a time;
// otherwise the test would take half an hour.
func TestAboutOften(t *testing.T) {
	t.Parallel()
	const runs = 500
	s := fixture.ServerWith(t, func(s *server.Settings) { s.Store = stores.Shared })
	for _, form := range []struct{ name, command string }{
		{"installable", "nix build --no-link --file all.nix n\\$i"},
		{"path", "nix build --no-link \\$out"},
		{"derivation", "nix build --no-link \\$drv^out"},
		{"realise", "nix-store -r \\$out"},
	} {
		t.Run(form.name, func(t *testing.T) {
			files := map[string]string{"all.nix": fmt.Sprintf(`builtins.listToAttrs (map (n: { name = "n${toString n}"; value = derivation {
  name = "%s-${toString n}"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }; }) (builtins.genList (n: n) %d))`, form.name, runs)}
			if err := fixture.Env.Git.Commit("often-"+form.name, "main", files); err != nil {
				t.Fatal(err)
			}
			repository := fixture.Env.Git.Public + "/often-" + form.name
			fixture.WantExit(t, fixture.Do(t, s, fixture.Build(repository, "nix-build --no-out-link all.nix")), 0)
			c := fixture.NewCache(t)
			got := fixture.Do(t, s, c.Pushing(fixture.Build(repository, fmt.Sprintf(`sh -c '
for n in 1 2 3 4; do while :; do :; done & done
busy=$(jobs -p)
nix eval --impure --raw --expr "with builtins; concatStringsSep \"\" (map (d: d.name + \" \" + unsafeDiscardStringContext d.outPath + \" \" + unsafeDiscardStringContext d.drvPath + \"\n\") (attrValues (import ./all.nix)))" > all
export command="%s"
xargs -P 4 -n 3 sh -ec "i=\${0##*-} out=\$1 drv=\$2; eval \"\$command\" >/dev/null" < all
code=$?
kill $busy
exit $code'`, form.command))))
			fixture.WantExit(t, got, 0)
			if names := c.Names(); len(names) != runs {
				t.Errorf("the cache has %d paths, want %d: %s", len(names), runs, strings.Join(names, " "))
			}
		})
	}
}

// TestAboutAfterOutage stops the cache while a job pushes, for longer than the job waits. The next job with the same
// command pushes everything and builds nothing.
func TestAboutAfterOutage(t *testing.T) {
	t.Parallel()
	s := fixture.ServerWith(t, func(s *server.Settings) { s.Store = stores.Shared })
	c := fixture.NewMortalCache(t, devcache.Strict)
	job := c.Pushing(fixture.Command(`nix build --no-link --impure --expr 'let d = name: script: derivation { inherit name; system = builtins.currentSystem; ` +
		`builder = "/bin/sh"; args = [ "-c" script ]; }; needed = d "needed" "echo > $out"; in d "top" ": ${needed}; echo > $out"'`))
	c.DiesAt("POST", fixture.UploadBegin, 2, 0)
	fixture.WantUnpushed(t, fixture.Do(t, s, job), "")

	c.ReturnAfter(0)
	next := fixture.Do(t, s, job) // waits for the cache
	fixture.WantExit(t, next, 0)
	wantNothingBuilt(t, next)
	fixture.WantNames(t, c.BinaryCache, []string{"needed", "top"})
}
