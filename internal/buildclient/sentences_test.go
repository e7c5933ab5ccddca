package buildclient

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/schemas"
)

func TestSentences(t *testing.T) {
	for want, r := range map[string]schemas.Response{
		"Exit code 1. hello failed: two. See its log.": {Error: "Exit code 1", Msg: "hello failed: two. See its log."},
		"It is gone. Send it again.":                   {Error: "It is gone.", Msg: "Send it again."},
		"It is gone":                                   {Error: "It is gone"},
		"Start Building":                               {Msg: "Start Building"},
		"a^Gb":                                         {Error: "a\ab"},
	} {
		if got := sentences(&r); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// The summary prefers the builder's results to those that the client has found in the log.
func TestResultRows(t *testing.T) {
	s := &screen{target: push{target: "https://cache.example.com/a"}, results: []string{"/nix/store/seen"}, progress: new(progress)}
	s.progress.take(schemas.AppendEvent(nil, schemas.ResultsEvent{Results: []schemas.Result{{Installable: ".#a", Paths: []string{"/nix/store/a", "/nix/store/b\a"}}},
		Get: "nix-store --realise /nix/store/a"}), time.Now())
	want := [][2]string{{"result", "/nix/store/a .#a"}, {"result", "/nix/store/b^G .#a"}, {"get it", "nix-store --realise /nix/store/a"}}
	if diff := cmp.Diff(want, s.rows(&schemas.VerdictEvent{}, true)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if rows := s.rows(&schemas.VerdictEvent{}, false); len(rows) != 0 {
		t.Errorf("of a failure: %q", rows)
	}
}

// A job without results, such as one of "nix flake check", has no command that fetches them. Where the cache is read is not
// guessed.
func TestRowsWithoutResults(t *testing.T) {
	verdict := &schemas.VerdictEvent{Pushed: &schemas.Pushed{Paths: 1, Bytes: 2048}}
	s := &screen{target: push{target: "https://cachix.org/a", publicKey: "a:key"}, progress: new(progress)}
	s.progress.take(schemas.AppendEvent(nil, schemas.ResultsEvent{Pushed: verdict.Pushed, Target: "https://cachix.org/a"}), time.Now())
	if diff := cmp.Diff([][2]string{{"pushed", "1 path, 2.0 KiB, to https://cachix.org/a"}}, s.rows(verdict, true)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The summary of a job that is watched has what the client does not know from the job itself: the cache, and the
// command that fetches the results.
func TestRowsOfWatchedJob(t *testing.T) {
	verdict := &schemas.VerdictEvent{Pushed: &schemas.Pushed{Paths: 2, Bytes: 2048}}
	s := &screen{progress: new(progress)}
	if diff := cmp.Diff([][2]string{{"pushed", "2 paths, 2.0 KiB"}}, s.rows(verdict, false)); diff != "" {
		t.Errorf("of a failure (-want +got):\n%s", diff)
	}
	s.progress.take(schemas.AppendEvent(nil, schemas.ResultsEvent{Results: []schemas.Result{{Paths: []string{"/nix/store/a"}}},
		Pushed: verdict.Pushed, Target: "https://cache.example.com/a", Get: "nix-store --realise /nix/store/a"}), time.Now())
	want := [][2]string{{"pushed", "2 paths, 2.0 KiB, to https://cache.example.com/a"}, {"result", "/nix/store/a"}, {"get it", "nix-store --realise /nix/store/a"}}
	if diff := cmp.Diff(want, s.rows(verdict, true)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
