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

// TestDiamond builds a diamond of derivations: once with a Nix that reports its progress to programs, and once
// with one that only prints. Both times the events have the dependencies and the state of each derivation.
func TestDiamond(t *testing.T) {
	if err := fixture.Env.Git.Commit("diamond", "main", fixture.Diamond); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"nix build --no-link", "nix-build --no-out-link"} {
		fixture.InFormats(t, func(t *testing.T, format schemas.Format) {
			story := tell(t, format, fixture.Env.Server, fixture.Build(fixture.Env.Git.Public+"/diamond", line))
			checkVerdict(t, story, "exited", 0)
			names, needs := story.Planned(t)
			slices.Sort(names)
			if want := []string{"base", "left", "right", "top"}; !slices.Equal(want, names) {
				t.Errorf("%s: the plan is %q", line, names)
			}
			want := map[string][]string{"left": {"base"}, "right": {"base"}, "top": {"left", "right"}}
			if diff := cmp.Diff(want, needs); diff != "" {
				t.Errorf("%s: dependencies (-want +got):\n%s", line, diff)
			}
			for _, name := range names {
				if states, _ := story.States(name); len(states) != 2 || states[0].State != "building" || states[1].State != "built" {
					t.Errorf("%s: the states of %s are %+v", line, name, states)
				}
			}
			progress := schemas.ProgressEvent{Derivations: schemas.Counts{Done: 4, Expected: 4}}
			if got := last[schemas.ProgressEvent](story); got != progress {
				t.Errorf("%s: progress %+v, want %+v", line, got, progress)
			}
			if !slices.Contains(story.Phases(), schemas.Build) {
				t.Errorf("%s: phases %v", line, story.Phases())
			}
		})
	}
}

// nixBuildOld returns a command that builds an expression with a Nix that only prints.
func nixBuildOld(expression string, more ...string) string {
	return shellwords.Join(append([]string{"nix-build", "--no-out-link", "-E", expression}, more...))
}

// TestEventsOfLines is TestEvents with a Nix that only prints, and two derivations in parallel. The events say
// which derivation failed and what it printed. They report the other as built, but later.
func TestEventsOfLines(t *testing.T) {
	story := tell(t, schemas.Document, fixture.Env.Server, fixture.Command(nixBuildOld(family, "--keep-going", "--max-jobs", "2")))
	checkVerdict(t, story, "exited", 1) // of root, 100
	var tail []string
	for n := 10; n < 30; n++ {
		tail = append(tail, fmt.Sprint("line ", n))
	}
	for name, want := range map[string][]schemas.DerivationEvent{
		"a": {{State: "building"}, {State: "built"}},
		"b": {{State: "building"}, {State: "failed", Log: tail}},
		"c": {{State: "building"}, {State: "built"}},
	} {
		if states, lines := story.States(name); cmp.Diff(want, states) != "" || name == "b" && len(lines) != 30 {
			t.Errorf("%s: lines %q, states (-want +got):\n%s", name, lines, cmp.Diff(want, states))
		}
	}
	want := schemas.ProgressEvent{Derivations: schemas.Counts{Done: 2, Expected: 3, Failed: 1}}
	if got := last[schemas.ProgressEvent](story); got != want {
		t.Errorf("progress %+v, want %+v", got, want)
	}
	if story.CloseCode != websocket.CloseInternalServerErr {
		t.Errorf("close code %d", story.CloseCode)
	}
}

// TestFetchOfLines fetches what another job has pushed, with a Nix that only prints.
func TestFetchOfLines(t *testing.T) {
	c := fixture.NewCache(t)
	if err := fixture.Env.Git.Commit("fetched", "main", fixture.Diamond); err != nil {
		t.Fatal(err)
	}
	story := tell(t, schemas.Document, fixture.Env.Server, c.Pushing(fixture.Build(fixture.Env.Git.Public+"/fetched", "nix-build --no-out-link")))
	checkVerdict(t, story, "exited", 0)
	if names, _ := story.Planned(t); len(names) != 4 || story.Verdict().Pushed == nil || story.Verdict().Pushed.Paths == 0 {
		t.Errorf("the plan is %q, pushed %+v", names, story.Verdict().Pushed)
	}
	get := fixture.Build(fixture.Env.Git.Public+"/fetched", "nix-build --no-out-link")
	get.BuildOptions.Substituters = []string{c.URL}
	get.BuildOptions.TrustedPublicKeys = []string{"default:" + fixture.PublicKey(t)}
	story = tell(t, schemas.Document, fixture.Env.Server, get)
	checkVerdict(t, story, "exited", 0)
	progress := last[schemas.ProgressEvent](story)
	if progress.Paths.Done != progress.Paths.Expected || progress.Paths.Done == 0 || progress.Paths.Running != 0 || progress.Derivations.Expected != 0 {
		t.Errorf("progress %+v", progress)
	}
}
