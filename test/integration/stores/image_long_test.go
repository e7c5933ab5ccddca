//go:build integration && long

package stores

import (
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/test/kit/fixture"
)

// TestDamagedStore runs jobs as root that destroy what every job needs. The next job gets a new store.
func TestDamagedStore(t *testing.T) { fixture.OnEngines(t, damagedStores) }

func damagedStores(t *testing.T, e *fixture.Engine) {
	s := storeServer(t, e, func(s *server.Settings) { s.JobUser = orchestrator.UserRoot })
	url := repository(t, "echo > $out")
	for _, line := range []string{
		`sh -c 'git=$(readlink -f "$(command -v git)"); chmod -R u+w "${git%/bin/*}"; rm -r "${git%/bin/*}"'`,
		`sh -c 'nix=$(readlink -f "$(command -v nix)"); chmod u+w "$nix"; : > "$nix"'`,
	} {
		fixture.WantExit(t, fixture.Do(t, s, fixture.Build(url, line)), 0)
		next := fixture.Do(t, s, fixture.Build(url, "nix-build"))
		fixture.WantExit(t, next, 0)
		fixture.WantLine(t, next, "the store is removed, and the job begins again with a fresh one")
		fixture.WantLine(t, next, fillingStore)
	}
}
