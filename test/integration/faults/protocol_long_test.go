//go:build integration && long

package faults

import (
	"net/http"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/fixture"
)

// TestInterfaceGoes makes an engine fail to make the jobs' network in the way in which Podman sometimes fails.
func TestInterfaceGoes(t *testing.T) { fixture.OnEngines(t, interfaceGoes) }

func interfaceGoes(t *testing.T, e *fixture.Engine) {
	f := startFaulty(t, e.Socket())
	s := e.ServerVia(t, f.host(), func(*server.Settings) {})
	hit := f.at(stepAt("create network", "POST /networks/create", 1), func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, `{"message":"route ip+net: no such network interface"}`, http.StatusInternalServerError)
		return true
	})
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("nix --version")), 0)
	await.Receive(t, hit, "the call is made")
}
