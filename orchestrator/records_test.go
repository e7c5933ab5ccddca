package orchestrator

import (
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/memengine"
)

// TestRecord checks a job's record while the job runs, and after it was cancelled. The request and the engine's answers
// contain secrets everywhere; the record contains none.
func TestRecord(t *testing.T) {
	var b *Builder
	var records *history.History
	var during history.Record
	b, _, _ = builder(t, func(p *memengine.Process) int {
		job := p.Spec.Labels[engine.LabelJob]
		var err error
		if during, err = records.Get(job); err != nil {
			t.Error(err)
		}
		if !b.Cancel(job) || b.Cancel("another") {
			t.Error("the job that runs cannot be cancelled, or another can")
		}
		<-p.Terminated
		return 143
	})
	var err error
	records, err = history.Open(filepath.Join(t.TempDir(), "history.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { records.Close() })
	b.records = records
	request := secretRequest()
	request.Git.Repository, request.Git.Branch = "https://secret-api@host/secret-api", "secret-git-1"
	request.BuildOptions.Command = "nix build secret-signing"
	b.build(t.Context(), request, io.Discard)

	if !during.Runs() || during.Repository != "https://host/***" || during.Branch != "***" || during.Command != "nix build ***" {
		t.Errorf("while it runs: %+v", during)
	}
	after, err := records.Get(during.Job)
	if err != nil || after.End != jobend.Cancelled || after.Ended.IsZero() || after.Lines < 2 ||
		after.Msg != "Somebody cancelled it, on the page or with 'iglu-builder cancel'." {
		t.Errorf("after it: %+v, %v", after, err)
	}
	var kept schemas.Request
	if err := json.Unmarshal(after.Request, &kept); err != nil || kept.Git.Repository != "https://host/***" || kept.BuildOptions.Command != "nix build ***" {
		t.Errorf("its request: %v, %s", err, after.Request)
	}
	if diff := cmp.Diff(request.SecretNames(), after.Secrets); diff != "" || len(after.Secrets) == 0 {
		t.Errorf("the names of its secrets (-want +got):\n%s", diff)
	}
	if text, _ := json.Marshal(after); strings.Contains(string(text), "secret-") {
		t.Errorf("a secret stands in %s", text)
	}
	if b.Cancel(during.Job) {
		t.Error("a job that has ended can be cancelled")
	}
}

// fullRecords are Records on a disk that is full.
type fullRecords struct{ err error }

func (r fullRecords) Put(history.Record) error      { return r.err }
func (r fullRecords) Prune(func(string) bool) error { return r.err }

// TestRecordsFail runs jobs whose records cannot be stored: they run all the same, and the log says so.
func TestRecordsFail(t *testing.T) {
	for _, err := range []error{nil, errors.New("no space left on device")} {
		b, log, _ := builder(t, func(p *memengine.Process) int { return ends(p, jobwire.End{}) })
		b.records = fullRecords{err}
		if r := b.build(t.Context(), secretRequest(), io.Discard).Response; r.JobStatus != schemas.Success {
			t.Errorf("%v: %s", err, r.Encode())
		}
		b.background.Wait()
		for _, text := range []string{"cannot store the job's record", "cannot remove records of old jobs"} {
			if strings.Contains(log.String(), text) != (err != nil) {
				t.Errorf("%v: its log:\n%s", err, log)
			}
		}
	}
}
