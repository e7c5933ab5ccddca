package main

import (
	"testing"
)

// TestUser looks at who a job's command is.
func TestUser(t *testing.T) { onEngines(t, jobUser) }

func jobUser(t *testing.T, e *site) {
	s := e.server(t, func(*settings) {})
	got := do(t, s, command(`sh -c 'echo "uid $(id -u) $(id -un) groups $(id -G) home $HOME"; grep Cap /proc/self/status; echo written > /dev/stdout; touch $HOME/mine && nix store info'`))
	wantExit(t, got, 0)
	wantLine(t, got, "uid 1000 iglu groups 1000 home /home/iglu")
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
		wantLine(t, got, set+":\t0000000000000000")
	}
	wantLine(t, got, "written")
	wantLine(t, got, "Trusted: 0")
}
