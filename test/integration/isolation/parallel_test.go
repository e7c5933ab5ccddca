//go:build integration

package isolation

import (
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// TestInParallel checks that Nix builds as many derivations in parallel as the job has CPUs, rounded up. With 1.5
// CPUs, two derivations wait for each other. With one CPU, two derivations must not run at the same time.
func TestInParallel(t *testing.T) { fixture.OnEngines(t, inParallel) }

func inParallel(t *testing.T, e *fixture.Engine) {
	const build = `nix-build --no-out-link -E 'let d = name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; ` +
		`PATH = "/nix/var/nix/profiles/default/bin"; args = [ "-c" script ]; }; in [ (d "a" "A") (d "b" "B") ]'`
	meet := strings.NewReplacer(`"A"`, `"echo > /tmp/a; until test -e /tmp/b; do sleep 0.1; done; echo > $out"`, `"B"`, `"echo > /tmp/b; until test -e /tmp/a; do sleep 0.1; done; echo > $out"`).Replace(build)
	const alone = `"mkdir /tmp/alone || exit 1; sleep 0.5; rmdir /tmp/alone; echo > $out"`
	apart := strings.NewReplacer(`"A"`, alone, `"B"`, alone).Replace(build)
	server := func(cpus float64) *fixture.Server {
		return e.Server(t, func(s *server.Settings) { s.Limits.CPUs.Fixed = cpus })
	}
	two, one := server(1.5), server(1)
	fixture.WantExit(t, fixture.Do(t, two, fixture.Command(meet)), 0)
	fixture.WantExit(t, fixture.Do(t, one, fixture.Command(apart)), 0)

	jobs := fixture.Command(meet) // its sender sets the number of jobs
	number := schemas.Integer(2)
	jobs.BuildOptions.MaxJobs = &number
	fixture.WantExit(t, fixture.Do(t, one, jobs), 0)
}
