//go:build integration

package logs

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// TestDiamond builds a diamond of derivations, with a command that tells programs of it and
// one that only prints: both times it is told what needs what, and how each does.
func TestDiamond(t *testing.T) {
	if err := fixture.Env.Git.Commit("diamond", "main", fixture.Diamond); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"nix build --no-link", "nix-build --no-out-link"} {
		fixture.InForms(t, func(t *testing.T, form schemas.Format) {
			told := tell(t, form, fixture.Env.Server, fixture.Build(fixture.Env.Git.Public+"/diamond", line))
			checkVerdict(t, told, "exited", 0)
			names, needs := told.Planned(t)
			slices.Sort(names)
			if want := []string{"base", "left", "right", "top"}; !slices.Equal(want, names) {
				t.Errorf("%s: listed are %q", line, names)
			}
			want := map[string][]string{"left": {"base"}, "right": {"base"}, "top": {"left", "right"}}
			if diff := cmp.Diff(want, needs); diff != "" {
				t.Errorf("%s: who needs what (-want +got):\n%s", line, diff)
			}
			for _, name := range names {
				if states, _ := told.States(name); len(states) != 2 || states[0].State != "building" || states[1].State != "built" {
					t.Errorf("%s: the states of %s are %+v", line, name, states)
				}
			}
			progress := schemas.ProgressEvent{Derivations: schemas.Counts{Done: 4, Expected: 4}}
			if got := last[schemas.ProgressEvent](told); got != progress {
				t.Errorf("%s: progress %+v, want %+v", line, got, progress)
			}
			if !slices.Contains(told.Phases(), schemas.Build) {
				t.Errorf("%s: phases %v", line, told.Phases())
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
	told := tell(t, schemas.Document, fixture.Env.Server, fixture.Command(nixBuildOld(family, "--keep-going", "--max-jobs", "2")))
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
		if states, lines := told.States(name); cmp.Diff(want, states) != "" || name == "b" && len(lines) != 30 {
			t.Errorf("%s: lines %q, states (-want +got):\n%s", name, lines, cmp.Diff(want, states))
		}
	}
	want := schemas.ProgressEvent{Derivations: schemas.Counts{Done: 2, Expected: 3, Failed: 1}}
	if got := last[schemas.ProgressEvent](told); got != want {
		t.Errorf("progress %+v, want %+v", got, want)
	}
	if told.CloseCode != websocket.CloseInternalServerErr {
		t.Errorf("close code %d", told.CloseCode)
	}
}

// TestFetchOfLines has a command that only prints get what another job has pushed.
func TestFetchOfLines(t *testing.T) {
	c := fixture.NewCache(t)
	if err := fixture.Env.Git.Commit("fetched", "main", fixture.Diamond); err != nil {
		t.Fatal(err)
	}
	told := tell(t, schemas.Document, fixture.Env.Server, c.Pushing(fixture.Build(fixture.Env.Git.Public+"/fetched", "nix-build --no-out-link")))
	checkVerdict(t, told, "exited", 0)
	if names, _ := told.Planned(t); len(names) != 4 || told.Verdict().Pushed == nil || told.Verdict().Pushed.Paths == 0 {
		t.Errorf("listed are %q, pushed %+v", names, told.Verdict().Pushed)
	}
	get := fixture.Build(fixture.Env.Git.Public+"/fetched", "nix-build --no-out-link")
	get.BuildOptions.Substituters = []string{c.URL}
	get.BuildOptions.TrustedPublicKeys = []string{"default:" + fixture.PublicKey(t)}
	told = tell(t, schemas.Document, fixture.Env.Server, get)
	checkVerdict(t, told, "exited", 0)
	progress := last[schemas.ProgressEvent](told)
	if progress.Paths.Done != progress.Paths.Expected || progress.Paths.Done == 0 || progress.Paths.Running != 0 || progress.Derivations.Expected != 0 {
		t.Errorf("progress %+v", progress)
	}
}
