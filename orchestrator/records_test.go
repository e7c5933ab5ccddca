package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/jobend"
)

// TestRecord looks at a job's record while it runs, cancels it, and looks again. A request
// and an engine that tell secrets everywhere leave none in it.
func TestRecord(t *testing.T) {
	var b *Builder
	var during history.Record
	b, _, _ = builder(t, scripted(func(ctx context.Context, c container, _, _ io.Writer, say func(string)) (int, error) {
		say("a line")
		var err error
		if during, err = b.records.(*history.History).Get(c.job); err != nil {
			t.Error(err)
		}
		if !b.Cancel(c.job) || b.Cancel("another") {
			t.Error("the job that runs cannot be cancelled, or another can")
		}
		<-ctx.Done()
		return 0, errors.New("ended, with secret-api")
	}))
	request := secretRequest()
	request.Git.Repository, request.Git.Branch = "https://secret-api@host/secret-api", "secret-git-1"
	request.BuildOptions.Command = "nix build secret-signing"
	b.Build(t.Context(), request, io.Discard)

	if !during.Runs() || during.Repository != "https://host/***" || during.Branch != "***" || during.Command != "nix build ***" {
		t.Errorf("while it runs: %+v", during)
	}
	after, err := b.records.(*history.History).Get(during.Job)
	if err != nil || after.End != jobend.Cancelled || after.Ended.IsZero() || after.Lines != 1 ||
		after.Msg != "Somebody cancelled it on the builder's page." {
		t.Errorf("after it: %+v, %v", after, err)
	}
	if text, _ := json.Marshal(after); strings.Contains(string(text), "secret-") {
		t.Errorf("a secret stands in %s", text)
	}
	if b.Cancel(during.Job) {
		t.Error("a job that has ended can be cancelled")
	}
}
