//go:build integration && long

package faults

import (
	"net/http"
	"testing"

	"iglu.sh/builder/test/kit/fixture"
)

// TestEngineErrorsAreCounted makes calls to the engine fail: one fault fails the job, another does not.
func TestEngineErrorsAreCounted(t *testing.T) { fixture.OnEngines(t, engineErrorsAreCounted) }

func engineErrorsAreCounted(t *testing.T, e *fixture.Engine) {
	w := startFaultFixture(t, e)
	f := startFaulty(t, w.Socket())
	s := fixture.ServerVia(t, f.host(), attackOnly)
	fails := func(out http.ResponseWriter, in *http.Request) bool { return f.spoil("500", out, in) }
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command(job3)), 3) // it makes the network and the volume: the next does not
	f.at(stepAt("remove", "DELETE /containers/.*", 1), fails)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command(job3)), 3)
	f.at(stepAt("start", "POST /containers/.*/start", 1), fails)
	wantFailure(t, fixture.Do(t, s, fixture.Command(job3)))
	wantNext(t, s)
	fixture.WantNumbers(t, fixture.Scrape(t, s, ""), `iglu_builder_engine_errors_total{call="start the container"} 1`,
		`iglu_builder_engine_errors_total{call="remove the container"} 1`)
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	w.clean(t, s)
	fixture.WantJobIDs(t, s)
}
