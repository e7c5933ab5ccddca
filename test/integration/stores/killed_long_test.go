//go:build integration && long

package stores

import (
	"testing"

	"iglu.sh/builder/test/kit/fixture"
)

// verifyStore is a command that verifies the store of its job.
const verifyStore = "nix-store --verify --check-contents"

// TestCleanStoreOfKilledJob kills jobs during a build. Their store is verified once, by the next job or between jobs, and
// kept. It is not verified if it is the builder that is killed, because the job then ends by itself.
func TestCleanStoreOfKilledJob(t *testing.T) { fixture.OnEngines(t, cleanStoreOfKilledJob) }

func cleanStoreOfKilledJob(t *testing.T, e *fixture.Engine) {
	s := killServer(t, e)
	url := repository(t, "echo > $out")
	fixture.WantExit(t, fixture.Do(t, s, fixture.Build(url, "nix-build")), 0)
	verify := fixture.Build(url, verifyStore)
	wantNotVerified := func() {
		t.Helper()
		got := fixture.Do(t, s, verify)
		fixture.WantExit(t, got, 0)
		if hasLine(got, verifyingStore) {
			t.Errorf("the builder verifies it: %v", got.Lines)
		}
	}

	killJob(t, e, s, url, "true")
	got := fixture.Do(t, s, verify)
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, verifyingStore)
	if hasLine(got, damagedStore) || hasLine(got, fillingStore) {
		t.Errorf("a clean store was removed: %v", got.Lines)
	}
	wantNotVerified()

	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Build(url, "sh -c 'echo begun; sleep 1000'")))
	c.WaitFor(`"begun"`)
	s.Kill()
	s = fixture.StartProcessIn(t, s.Instance, s.StateDir, e.Host, killFlags()...)
	s.Host = e.Host
	wantNotVerified()

	killJob(t, e, s, url, "true")
	if err := fixture.AwaitState(t, s, `"measured":true`); err != nil {
		t.Errorf("the store was not verified between jobs: %v, %s", err, fixture.StoresState(t, s))
	}
	wantNotVerified()
}

// TestDamagedStoreOfKilledJob verifies the store that a job gets instead of a damaged one.
func TestDamagedStoreOfKilledJob(t *testing.T) { fixture.OnEngines(t, damagedStoreOfKilledJob) }

func damagedStoreOfKilledJob(t *testing.T, e *fixture.Engine) {
	s := killServer(t, e)
	got := fixture.Do(t, s, fixture.Build(killDamaging(t, e, s), verifyStore))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, damagedStore)
}
