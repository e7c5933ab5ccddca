package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/schemas"
)

// messages are those of a job, as a reader of them gets them.
type messages struct {
	io.Writer
	all []schemas.Message
}

func (m *messages) WriteMessages(batch []schemas.Message) error {
	for _, message := range batch {
		message.Line = []byte(string(message.Line)) // which is another's afterwards
		m.all = append(m.all, message)
	}
	return nil
}

// told returns the messages' events as JSON, and all other messages by their words.
func (m *messages) told() (told []string) {
	for _, message := range m.all {
		switch {
		case message.Stream != "":
			told = append(told, string(message.Stream)+": "+string(message.Line))
		case message.Response != nil:
			told = append(told, string(message.Response.JobStatus))
		default:
			told = append(told, string(message.Event))
		}
	}
	return told
}

// TestMessages has a program in a container tell what it may and what it may not.
func TestMessages(t *testing.T) {
	commit := strings.Repeat("c0ffee00", 5)
	b, log, _ := builder(t, scripted(func(ctx context.Context, c container, stdout, stderr io.Writer, say func(string)) (int, error) {
		pulling := c.account.pulling(say)
		pulling("pulling")
		pulling("still pulling")
		c.account.creates("sha256:image")
		w := jobwire.NewWriter(stdout, c.told.EventsToken)
		w.Event(schemas.PhaseEvent{Phase: schemas.Fetch})
		w.Note(jobwire.Note{Commit: commit})
		w.Note(jobwire.Note{Commit: "no commit"})
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
		w.Note(jobwire.Note{Event: []byte(`{"type":"of a later version"}`)})
		w.Note(jobwire.Note{Event: []byte(`{"type":"push","bytes":"many"}`)})
		w.Event(schemas.PushEvent{Bytes: 1})
		w.Note(jobwire.Note{Usage: &jobwire.Usage{PeakMemory: 1 << 20, CPUSeconds: 1.5}, Pushed: &schemas.Pushed{Paths: 2, Bytes: 3}})
		c.account.begin(schemas.Done)
		return 3, nil
	}))
	var out messages
	last := b.Build(t.Context(), secretRequest(), &out)
	want := []string{
		"starting",
		`{"type":"phase","phase":"pull"}`, "builder: iglu: pulling", "builder: iglu: still pulling", `{"type":"phase","phase":"create"}`,
		`{"type":"phase","phase":"fetch"}`, `{"type":"phase","phase":"evaluate"}`, `{"type":"phase","phase":"build"}`,
		"stderr: an error", "stdout: half a line", `{"type":"push","paths":{"done":0,"expected":0},"bytes":1}`, `{"type":"phase","phase":"done"}`,
		"failed",
	}
	if diff := cmp.Diff(want, out.told()); diff != "" {
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
	wantVerdict := schemas.VerdictEvent{End: "exited", ExitCode: &code, PeakMemory: 1 << 20, CPUSeconds: 1.5, Commit: commit, Image: "sha256:image",
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

// A job that does not come to run has a verdict, too, without what it did not come to.
func TestVerdictOfNothing(t *testing.T) {
	b, _, folder := builder(t, scripted(func(context.Context, container, io.Writer, io.Writer, func(string)) (int, error) {
		return 0, &failure{end: jobend.EngineGone, what: "Gone.", cause: errors.New("gone")}
	}))
	const want = `{"type":"verdict","end":"%s","seconds":0.000,"phases":[]}`
	exact := regexp.MustCompile(`"seconds":[0-9.]+`)
	verdict := func(m schemas.Message) string { return exact.ReplaceAllString(string(m.Event), `"seconds":0.000`) }
	if last := b.Build(t.Context(), secretRequest(), io.Discard); verdict(last) != fmt.Sprintf(want, "engine-gone") || last.Seq != 2 {
		t.Errorf("message %d: %s, want %s", last.Seq, last.Event, want)
	}
	// Without a log the message has no number.
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	last := b.Build(t.Context(), secretRequest(), io.Discard)
	if verdict(last) != fmt.Sprintf(want, "failed") || last.Seq != 0 || last.Response.JobStatus != schemas.Failed {
		t.Errorf("message %d: %s, want %s", last.Seq, last.Event, want)
	}
}
