package buildclient

import (
	"io"
	"net/http"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/spf13/pflag"

	"iglu.sh/builder/schemas"
)

func TestWithFlagNames(t *testing.T) {
	for text, want := range map[string]string{
		"buildOptions.maxJobs: must be 1 or more; git.branch: is too long": "--max-jobs: must be 1 or more; --branch: is too long",
		"The default branch does not exist. Name one in git.branch.":       "The default branch does not exist. Name one in --branch.",
		"gitKey is a private key. Check git.gitKey and git.repository.":    "--git-key-file is a private key. Check --git-key-file and --repo.",
		"system: is too long": "--system: is too long",
		"give the private half as buildOptions.cachix.signingKey":              "give the private half as --signing-key-file",
		"the system nix.settings of legit.branch, mygitKey and git.branchless": "the system nix.settings of legit.branch, mygitKey and git.branchless",
		"": "",
	} {
		if got := withFlagNames(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// Every flag that a sentence can have exists.
func TestFlagNamesExist(t *testing.T) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(JobFlags).Register(flags)
	for property, flag := range flagNames {
		if flags.Lookup(flag[len("--"):]) == nil {
			t.Errorf("%s: there is no %s", property, flag)
		}
	}
}

// TestFlagsInSentences refuses jobs that flags describe, and jobs of a file. The command that is repeated stays.
func TestFlagsInSentences(t *testing.T) {
	refusal := schemas.Response{Error: "Invalid command: 'git.branch'", Msg: "git.branch: is too long", JobStatus: schemas.Failed}
	u := startBuilder(t, true, func(b *builderConn) {
		b.conn.WriteMessage(websocket.TextMessage, refusal.Encode())
		b.untilGone()
	})
	_, posted := startAPI(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.WriteHeader(http.StatusBadRequest)
		w.Write(refusal.Encode())
	})
	for fromFlags, want := range map[bool]string{
		true:  "Invalid command: 'git.branch'. --branch: is too long",
		false: "Invalid command: 'git.branch'. git.branch: is too long",
	} {
		if got := <-submit(t, Options{URL: u, Stdout: io.Discard, FromFlags: fromFlags}); got.err == nil || got.err.Error() != want {
			t.Errorf("%v, want %s", got.err, want)
		}
		posted.FromFlags = fromFlags
		if _, _, err := Detach(t.Context(), posted); err == nil || err.Error() != want {
			t.Errorf("posted: %v, want %s", err, want)
		}
	}
}
