package buildclient

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/jobend"
)

// TestShowJobs lists jobs as a table and as JSON.
func TestShowJobs(t *testing.T) {
	const answer = `{"jobs":[{"id":"a2","repository":"https://host/a","command":"nix build","begun":"2025-12-01T12:00:00Z","started":"2025-12-01T12:00:01Z",` +
		`"ended":"2025-12-01T12:01:05Z","end":"exited","exitCode":0,"lines":3}]}`
	api, o := startAPI(t, func(w http.ResponseWriter, _ *http.Request, nth int) {
		if nth == 3 {
			http.Error(w, "limit is not a whole number from 0 to 1000.", http.StatusBadRequest)
			return
		}
		io.WriteString(w, answer+"\n")
	})
	var table, asJSON bytes.Buffer
	o.Stdout = &table
	if err := ShowJobs(t.Context(), o, JobFilter{Limit: 20}); err != nil {
		t.Error(err)
	}
	begun := time.Date(2025, 12, 1, 12, 0, 0, 0, time.UTC).Local().Format(time.DateTime)
	want := "ID  STATE      BEGUN                TIME   REPOSITORY      BRANCH  COMMAND\n" +
		"a2  succeeded  " + begun + "  1m05s  https://host/a  -       nix build\n"
	if diff := cmp.Diff(want, table.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	o.Stdout, o.JSON = &asJSON, true
	if err := ShowJobs(t.Context(), o, JobFilter{State: "failed", Repository: "git@host:a", Limit: 1}); err != nil || asJSON.String() != answer+"\n" {
		t.Errorf("%v, %s", err, &asJSON)
	}
	if err := ShowJobs(t.Context(), o, JobFilter{Limit: -1}); err == nil || !strings.HasSuffix(err.Error(), "refuses: limit is not a whole number from 0 to 1000.") {
		t.Error(err)
	}
	const path = "GET /api/v1/jobs?limit="
	api.wantAsked(t, path+"20", path+"1&repository=git%40host%3Aa&state=failed", path+"-1")
	o.Stdout = failing{}
	if err := ShowJobs(t.Context(), o, JobFilter{}); err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Error(err)
	}
}

// TestListedJob checks what a list says of jobs in every state.
func TestListedJob(t *testing.T) {
	begun := time.Date(2025, 12, 1, 12, 0, 0, 0, time.UTC)
	now, ended := begun.Add(time.Hour), begun.Add(time.Minute)
	for _, test := range []struct {
		job         listedJob
		state, took string
	}{
		{listedJob{Begun: begun}, "waiting", "1h00m"},
		{listedJob{Begun: begun, Started: begun}, "running", "1h00m"},
		{listedJob{Begun: begun, Started: begun, Ended: ended, End: jobend.Exited, ExitCode: number(0)}, "succeeded", "1m00s"},
		{listedJob{Begun: begun, Started: begun, Ended: ended, End: jobend.Exited, ExitCode: number(1)}, "failed", "1m00s"},
		{listedJob{Begun: begun, Started: begun, Ended: ended, End: jobend.Unpushed, ExitCode: number(75)}, "unpushed", "1m00s"},
		{listedJob{Begun: begun, Ended: ended, End: jobend.Cancelled}, "cancelled", "1m00s"},
		{listedJob{Begun: begun, Started: begun, End: jobend.Interrupted}, "interrupted", "-"},
	} {
		if state, took := test.job.state(), test.job.took(now); state != test.state || took != test.took {
			t.Errorf("%+v: %s, %s, want %s, %s", test.job, state, took, test.state, test.took)
		}
	}
}

func TestCell(t *testing.T) {
	for text, want := range map[string]string{
		"": "-", "a\tb\n\n c": "a b c", "a\x1b[31m\ab": "a^Gb", strings.Repeat("é", 60): strings.Repeat("é", 50) + "…",
	} {
		if got := cell(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
