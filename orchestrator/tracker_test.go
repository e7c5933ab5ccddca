package orchestrator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/memengine"
)

// messages are those of a job, as a reader of them gets them.
type messages struct {
	io.Writer
	all []schemas.Message
}

func (m *messages) WriteMessages(batch []schemas.Message) error {
	for _, message := range batch {
		message.Line, message.Event = bytes.Clone(message.Line), bytes.Clone(message.Event) // which are others afterwards
		m.all = append(m.all, message)
	}
	return nil
}

// told returns the messages' events as JSON, and all other messages as text.
func (m *messages) texts() (texts []string) {
	for _, message := range m.all {
		switch {
		case message.Stream != "":
			texts = append(texts, jobIDs.ReplaceAllString(string(message.Stream)+": "+string(message.Line), "JOB"))
		case message.Response != nil:
			texts = append(texts, string(message.Response.JobStatus))
		default:
			texts = append(texts, string(message.Event))
		}
	}
	return texts
}

// A pullingEngine pulls the image for each job.
type pullingEngine struct{ engine.Engine }

func (e pullingEngine) Image(ctx context.Context, progress func(line string)) (engine.Image, error) {
	progress("pulling")
	progress("still pulling")
	return e.Engine.Image(ctx, progress)
}

// TestMessages runs a program in a container that reports events, including ones that it must not report.
func TestMessages(t *testing.T) {
	commit := strings.Repeat("c0ffee00", 5)
	b, log, _ := builder(t, func(p *memengine.Process) int {
		stdout, stderr := p.Stdout, p.Stderr
		w := jobwire.NewWriter(stdout, p.Getenv(jobenv.EventsToken))
		w.Event(schemas.PhaseEvent{Phase: schemas.Fetch})
		w.Send(jobwire.Record{Commit: commit})
		w.Send(jobwire.Record{Commit: "no commit"})
		w.Event(schemas.PhaseEvent{Phase: schemas.Evaluate})
		w.Event(schemas.PhaseEvent{Phase: schemas.Evaluate}) // once is enough
		io.WriteString(stdout, "half a ")
		w.Event(schemas.PhaseEvent{Phase: schemas.Build})
		io.WriteString(stderr, "an error\n")
		io.WriteString(stdout, "line\n")
		for _, phase := range []schemas.Phase{schemas.Pull, schemas.Create, schemas.Done, "rest"} {
			w.Event(schemas.PhaseEvent{Phase: phase})
		}
		w.Event(schemas.VerdictEvent{End: "forged"})
		w.Send(jobwire.Record{Event: []byte(`{"type":"of a later version"}`)})
		w.Send(jobwire.Record{Event: []byte(`{"type":"push","bytes":"many"}`)})
		w.Event(schemas.PushEvent{Bytes: 1})
		w.Send(jobwire.Record{Usage: &jobwire.Usage{PeakMemory: 1 << 20, CPUSeconds: 1.5}, Pushed: &schemas.Pushed{Paths: 2, Bytes: 3}})
		end, _ := json.Marshal(jobwire.Record{End: &jobwire.End{ExitCode: 4}})
		stdout.Write(end) // which is no record
		w.Send(jobwire.Record{End: &jobwire.End{ExitCode: 3, Reason: "hello failed", Advice: "See its log."}})
		jobwire.NewWriter(stderr, p.Getenv(jobenv.EventsToken)).Send(jobwire.Record{End: &jobwire.End{ExitCode: 3}})
		return 3
	})
	b.local.engine = pullingEngine{b.local.engine}
	var out messages
	last := b.build(t.Context(), secretRequest(), &out)
	want := []string{
		"starting", "builder: iglu: job JOB",
		`{"type":"phase","phase":"pull"}`, "builder: iglu: pulling", "builder: iglu: still pulling", `{"type":"phase","phase":"create"}`,
		"builder: iglu: job image image, sha256:2",
		`{"type":"phase","phase":"fetch"}`, `{"type":"phase","phase":"evaluate"}`, `{"type":"phase","phase":"build"}`,
		"stderr: an error", "stdout: half a line", `{"type":"push","paths":{"done":0,"expected":0},"bytes":1}`, `stdout: {"end":{"exitCode":4}}`,
		`{"type":"phase","phase":"done"}`,
		"builder: iglu: failed: hello failed. See its log.",
		"failed",
	}
	if diff := cmp.Diff(want, out.texts()); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	if n := len(out.all); last.Seq != int64(n) || cmp.Diff(out.all[n-1].Event, last.Event) != "" {
		t.Errorf("the last message is %+v, want %+v", last, out.all[n-1])
	}
	event, err := schemas.ParseEvent(last.Event)
	if err != nil {
		t.Fatal(err)
	}
	got := event.(schemas.VerdictEvent)
	for i := range got.Phases {
		got.Phases[i].Seconds = 0
	}
	got.Seconds = 0
	code := 3
	wantVerdict := schemas.VerdictEvent{End: "exited", Reason: "hello failed", ExitCode: &code, PeakMemory: 1 << 20, CPUSeconds: 1.5, Commit: commit, Image: "sha256:2",
		Pushed: &schemas.Pushed{Paths: 2, Bytes: 3},
		Phases: []schemas.PhaseTime{{Phase: "pull"}, {Phase: "create"}, {Phase: "fetch"}, {Phase: "evaluate"}, {Phase: "build"}}}
	if diff := cmp.Diff(wantVerdict, got); diff != "" {
		t.Errorf("verdict (-want +got):\n%s", diff)
	}
	for _, text := range []string{"end=exited", "exitCode=3", "commit=" + commit, "peakMemory=1048576", "cpuSeconds=1.5"} {
		if !strings.Contains(log.String(), text) {
			t.Errorf("the server's log lacks %s:\n%s", text, log)
		}
	}
}

// A job that never runs has a verdict, too, without the values that only a run has.
func TestVerdictOfNothing(t *testing.T) {
	b, _, folder := builder(t, nil)
	b.local.engine.(*memengine.Engine).Fail = func(string) error {
		return &engine.Failure{End: jobend.EngineGone, What: "Gone.", Cause: errors.New("gone")}
	}
	const want = `{"type":"verdict","end":"%s","reason":"%s","seconds":0.000,"phases":[]}`
	exact := regexp.MustCompile(`"seconds":[0-9.]+`)
	verdict := func(m schemas.Message) string { return exact.ReplaceAllString(string(m.Event), `"seconds":0.000`) }
	if last := b.build(t.Context(), secretRequest(), io.Discard); verdict(last) != fmt.Sprintf(want, "engine-gone", "gone") || last.Seq != 4 {
		t.Errorf("message %d: %s, want %s", last.Seq, last.Event, want)
	}
	// Without a log the message has no number.
	if err := errors.Join(os.RemoveAll(folder), os.WriteFile(folder, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	last := b.build(t.Context(), secretRequest(), io.Discard)
	if verdict(last) != fmt.Sprintf(want, "failed", "the builder cannot keep the job's log") || last.Seq != 0 || last.Response.JobStatus != schemas.Failed {
		t.Errorf("message %d: %s, want %s", last.Seq, last.Event, want)
	}
}
