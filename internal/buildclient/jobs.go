package buildclient

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/internal/textcut"
	"iglu.sh/builder/schemas"
)

// A JobFilter selects jobs of a builder. An empty text selects all.
type JobFilter struct {
	State      string // one of JobStates
	Repository string
	Limit      int // the most jobs that are listed
}

// JobStates are the states by which jobs can be selected. An unended job waits or runs.
var JobStates = []string{"unended", "waiting", "running", "succeeded", "failed"}

// A listedJob has those properties of a job's record that the list shows: docs/api.md.
type listedJob struct {
	ID         string     `json:"id"`
	Repository string     `json:"repository"`
	Branch     string     `json:"branch"`
	Command    string     `json:"command"`
	Begun      time.Time  `json:"begun"`
	Started    time.Time  `json:"started"`
	Ended      time.Time  `json:"ended"`
	End        jobend.End `json:"end"`
	ExitCode   *int       `json:"exitCode"`
}

// ShowJobs prints a list of the builder's jobs, the newest first. With the option JSON it prints the builder's answer.
func ShowJobs(ctx context.Context, o Options, f JobFilter) error {
	u := api(o.URL, schemas.JobsPath)
	query := url.Values{"limit": {strconv.Itoa(f.Limit)}}
	for name, value := range map[string]string{"state": f.State, "repository": f.Repository} {
		if value != "" {
			query.Set(name, value)
		}
	}
	u.RawQuery = query.Encode()
	response, err := o.ask(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("read the builder's answer: %w", err)
	}
	var answer struct {
		Jobs []listedJob `json:"jobs"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return fmt.Errorf("the builder's answer is no list of jobs: %w", err)
	}
	if o.JSON {
		v := newJSONView(o.Stdout)
		v.line(bytes.TrimSpace(text), nil)
		return v.end()
	}
	return printJobs(o.Stdout, answer.Jobs, time.Now())
}

// printJobs prints a table of jobs. now is for the times of jobs that have not ended.
func printJobs(out io.Writer, jobs []listedJob, now time.Time) error {
	var text bytes.Buffer
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "ID\tSTATE\tBEGUN\tTIME\tREPOSITORY\tBRANCH\tCOMMAND\n")
	for _, j := range jobs {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cell(j.ID), cell(j.state()), j.Begun.Local().Format(time.DateTime), j.took(now),
			cell(j.Repository), cell(j.Branch), cell(j.Command))
	}
	table.Flush() // never fails
	_, err := out.Write(text.Bytes())
	return err
}

// state returns the job's state, or how it has ended.
func (j listedJob) state() string {
	switch {
	case j.End == "" && j.Started.IsZero():
		return "waiting"
	case j.End == "":
		return "running"
	case j.End == jobend.Exited && j.ExitCode != nil && *j.ExitCode == 0:
		return "succeeded"
	case j.End == jobend.Exited:
		return "failed"
	}
	return string(j.End)
}

// took returns how long the job took, or has taken so far; "-" if that is not known, because its builder died.
func (j listedJob) took(now time.Time) string {
	switch {
	case j.End == "":
		return duration(now.Sub(j.Begun))
	case j.Ended.IsZero():
		return "-"
	}
	return duration(j.Ended.Sub(j.Begun))
}

// maxCell is the length in bytes at which a text in a table is cut.
const maxCell = 100

// cell returns a text for a column of a table: "-" if it is empty.
func cell(text string) string {
	text = textcut.Short(strings.Join(strings.Fields(text), " "), maxCell)
	return cmp.Or(termtext.Visible(text), "-")
}
