package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/schemas"
)

// diamond is a repository of four derivations, as a flake and without: top needs left and
// right, and both need base.
var diamond = map[string]string{
	"default.nix": `{ system ? builtins.currentSystem, script ? "echo > $out" }: let
  d = name: deps: derivation { inherit name deps system; builder = "/bin/sh"; args = [ "-c" "echo ${name} begins; ${script}" ]; };
  base = d "base" [ ];
in d "top" [ (d "left" [ base ]) (d "right" [ base ]) ]
`,
	"flake.nix": `{
  outputs = { self }: {
    packages.x86_64-linux.default = import ./. { system = "x86_64-linux"; };
    packages.aarch64-linux.default = import ./. { system = "aarch64-linux"; };
  };
}
`,
}

// planned returns the derivations that were listed, by name, and which each needs. None may
// have a state before it is listed.
func (s story) planned(t *testing.T) (names []string, needs map[string][]string) {
	t.Helper()
	needs = make(map[string][]string)
	listed := make(map[string]bool)
	for _, e := range s.events {
		switch e := e.(type) {
		case schemas.PlanEvent:
			if e.First != len(names) {
				t.Errorf("number %d is the first of a piece, want %d", e.First, len(names))
			}
			for _, d := range e.Derivations {
				name := strings.TrimSuffix(d.Derivation[44:], ".drv")
				for _, number := range d.Needs {
					needs[name] = append(needs[name], names[number])
				}
				slices.Sort(needs[name])
				names = append(names, name)
				listed[d.Derivation] = true
			}
		case schemas.DerivationEvent:
			if !listed[e.Derivation] {
				t.Errorf("%s is %s, but was not listed", e.Derivation, e.State)
			}
		}
	}
	return names, needs
}

// TestDiamond builds a diamond of derivations, with a command that tells programs of it and
// one that only prints: both times it is told what needs what, and how each does.
func TestDiamond(t *testing.T) {
	if err := world.git.commit("diamond", "main", diamond); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"nix build --no-link", "nix-build --no-out-link"} {
		inForms(t, func(t *testing.T, form schemas.Form) {
			told := tell(t, form, world.server, build(world.git.public+"/diamond", line))
			checkVerdict(t, told, "exited", 0)
			names, needs := told.planned(t)
			slices.Sort(names)
			if want := []string{"base", "left", "right", "top"}; !slices.Equal(want, names) {
				t.Errorf("%s: listed are %q", line, names)
			}
			want := map[string][]string{"left": {"base"}, "right": {"base"}, "top": {"left", "right"}}
			if diff := cmp.Diff(want, needs); diff != "" {
				t.Errorf("%s: who needs what (-want +got):\n%s", line, diff)
			}
			for _, name := range names {
				if states, _ := told.states(name); len(states) != 2 || states[0].State != "building" || states[1].State != "built" {
					t.Errorf("%s: the states of %s are %+v", line, name, states)
				}
			}
			progress := schemas.ProgressEvent{Derivations: schemas.Counts{Done: 4, Expected: 4}}
			if got := last[schemas.ProgressEvent](told); got != progress {
				t.Errorf("%s: progress %+v, want %+v", line, got, progress)
			}
			if !slices.Contains(told.phases(), schemas.Build) {
				t.Errorf("%s: phases %v", line, told.phases())
			}
		})
	}
}

// nixBuildOld is a job's command that builds an expression with a Nix that only prints.
func nixBuildOld(expression string, more ...string) string {
	return shellwords.Join(append([]string{"nix-build", "--no-out-link", "-E", expression}, more...))
}

// TestEventsOfLines is TestEvents with a command that only prints, and two derivations at once:
// it is told which failed and what it printed, and the other is built, if only that is known
// late.
func TestEventsOfLines(t *testing.T) {
	told := tell(t, schemas.Document, world.server, command(nixBuildOld(family, "--keep-going", "--max-jobs", "2")))
	checkVerdict(t, told, "exited", 1) // of root, 100
	var tail []string
	for n := 10; n < 30; n++ {
		tail = append(tail, fmt.Sprint("line ", n))
	}
	for name, want := range map[string][]schemas.DerivationEvent{
		"a": {{State: "building"}, {State: "built"}},
		"b": {{State: "building"}, {State: "failed", Log: tail}},
		"c": {{State: "building"}, {State: "built"}},
	} {
		if states, lines := told.states(name); cmp.Diff(want, states) != "" || len(lines) > 0 {
			t.Errorf("%s: lines %q, states (-want +got):\n%s", name, lines, cmp.Diff(want, states))
		}
	}
	want := schemas.ProgressEvent{Derivations: schemas.Counts{Done: 2, Expected: 3, Failed: 1}}
	if got := last[schemas.ProgressEvent](told); got != want {
		t.Errorf("progress %+v, want %+v", got, want)
	}
	if told.closeCode != websocket.CloseInternalServerErr {
		t.Errorf("close code %d", told.closeCode)
	}
}

// TestFetchOfLines has a command that only prints get what another job has pushed.
func TestFetchOfLines(t *testing.T) {
	c := newCache(t)
	if err := world.git.commit("fetched", "main", diamond); err != nil {
		t.Fatal(err)
	}
	told := tell(t, schemas.Document, world.server, c.pushing(build(world.git.public+"/fetched", "nix-build --no-out-link")))
	checkVerdict(t, told, "exited", 0)
	if names, _ := told.planned(t); len(names) != 4 || told.verdict().Pushed == nil || told.verdict().Pushed.Paths == 0 {
		t.Errorf("listed are %q, pushed %+v", names, told.verdict().Pushed)
	}
	get := build(world.git.public+"/fetched", "nix-build --no-out-link")
	get.BuildOptions.Substituters = []string{c.url}
	get.BuildOptions.TrustedPublicKeys = []string{"default:" + publicKey(t)}
	told = tell(t, schemas.Document, world.server, get)
	checkVerdict(t, told, "exited", 0)
	progress := last[schemas.ProgressEvent](told)
	if progress.Paths.Done != progress.Paths.Expected || progress.Paths.Done == 0 || progress.Paths.Running != 0 || progress.Derivations.Expected != 0 {
		t.Errorf("progress %+v", progress)
	}
}
