//go:build integration

package stores

import (
	"crypto/rand"
	"strings"
	"testing"

	"iglu.sh/builder/test/kit/fixture"
)

// killFlags are flags of a builder whose jobs run as root, so that they can damage their store, and can verify it.
func killFlags() []string {
	return []string{"--job-image", fixture.Env.Image, "--allowed-commands", "sh,nix-build,nix-store", "--job-user", "root"}
}

// killServer starts a builder in a process of its own with killFlags.
func killServer(t *testing.T, e *fixture.Engine) *fixture.Server {
	t.Helper()
	return e.Process(t, "test-process-"+strings.ToLower(rand.Text()[:10]), killFlags()...)
}

// killJob kills the container of a job that has run a script.
func killJob(t *testing.T, e *fixture.Engine, s *fixture.Server, url, script string) {
	t.Helper()
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Build(url, "sh -c '"+script+"; echo begun; sleep 1000'")))
	c.WaitFor(`"begun"`)
	e.Docker(t, "kill", s.JobContainer(t))
	c.Finish()
}

// killDamaging kills a job that has damaged the output of an earlier job in its store, a file with the text "sound".
// It returns their repository.
func killDamaging(t *testing.T, e *fixture.Engine, s *fixture.Server) (url string) {
	t.Helper()
	url = repository(t, "echo sound > $out")
	result := fixture.Do(t, s, fixture.Build(url, "nix-build"))
	fixture.WantExit(t, result, 0)
	path := onlyPath(t, result)
	killJob(t, e, s, url, "chmod u+w "+path+"; echo damaged > "+path)
	return url
}

// TestStoreOfKilledJob kills a job that has damaged its store. The next job gets a new store, and builds again.
func TestStoreOfKilledJob(t *testing.T) { fixture.OnEngines(t, storeOfKilledJob) }

func storeOfKilledJob(t *testing.T, e *fixture.Engine) {
	s := killServer(t, e)
	url := killDamaging(t, e, s)
	got := fixture.Do(t, s, fixture.Build(url, "sh -c 'cat $(nix-build)'"))
	fixture.WantExit(t, got, 0)
	for _, line := range []string{damagedStore, fillingStore, "sound"} {
		fixture.WantLine(t, got, line)
	}
}
