package orchestrator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/nodes"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/memengine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// builder returns a builder on an engine in memory, its log, and the folder of its jobs' logs.
func builder(t *testing.T, run func(p *memengine.Process) int, change ...func(*Options)) (b *Builder, log *await.Log, folder string) {
	t.Helper()
	folder = tempDir(t)
	logs, err := joblog.Open(folder, joblog.Keep{Jobs: 10}, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	options := Options{Stores: stores.Options{Instance: "test", Mode: stores.Ephemeral}}
	for _, c := range change {
		c(&options)
	}
	log = new(await.Log)
	var e engine.Engine
	if options.Cluster == nil {
		e = memengine.New(run)
	}
	b = New(e, options, logs, new(keptRecords), slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, log, folder
}

// use has a builder that has no job yet use another engine.
func (b *Builder) use(e engine.Engine) {
	b.queue, b.nodes = nodes.NewQueue(b.options.MaxQueued), make(map[*nodes.Node]*node)
	b.addLocal(e)
}

// build runs a job to its end, as a session does.
func (b *Builder) build(ctx context.Context, request *schemas.Request, out io.Writer) schemas.Message {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	j := b.Start(ctx, request, "", func() {})
	if err := j.Follow(context.WithoutCancel(ctx), out); err != nil {
		cancel(err)
	}
	return j.Wait()
}

// ends reports how a job has ended, and returns its exit code.
func ends(p *memengine.Process, how jobwire.End) int {
	for _, output := range []io.Writer{p.Stdout, p.Stderr} {
		jobwire.NewWriter(output, p.Getenv(jobenv.EventsToken)).Send(jobwire.Record{End: &how})
	}
	return how.ExitCode
}

// secretRequest is a request with secrets that are easy to distinguish.
func secretRequest() *schemas.Request {
	return &schemas.Request{
		Git: schemas.Git{GitKey: "-----BEGIN KEY-----\nsecret-git-1\nsecret-git-2\n-----END KEY-----"},
		BuildOptions: schemas.BuildOptions{
			Command: "nix build",
			Cachix:  schemas.Cachix{Push: true, Target: "http://h/c", APIKey: "secret-api", SigningKey: "secret-signing"},
		},
	}
}

// TestNoWayOutForSecrets lets an engine and a container print secrets wherever they can: in the output, in records, in
// errors and in the server's log.
func TestNoWayOutForSecrets(t *testing.T) {
	const tell = "secret-git-1 secret-git-2 secret-api secret-signing https://user:some-password@host/ told"
	for _, wait := range []error{
		errors.New(tell),
		&engine.Failure{What: tell, Advice: tell, Cause: errors.New(tell)},
		fmt.Errorf("around: %w", &engine.Failure{What: tell, Advice: tell, Cause: errors.New(tell)}),
		nil,
	} {
		token := ""
		b, log, folder := builder(t, func(p *memengine.Process) int {
			if !strings.Contains(strings.Join(p.Spec.Env, "\n"), "secret-signing") {
				t.Error("the container is not told the secrets")
			}
			token = p.Getenv(jobenv.EventsToken)
			io.WriteString(p.Stdout, tell+"\n")
			io.WriteString(p.Stderr, tell)
			w := jobwire.NewWriter(p.Stdout, token)
			w.Event(schemas.LineEvent{Derivation: tell, Text: tell})
			w.Event(schemas.DerivationEvent{Derivation: tell, State: schemas.DerivationFailed, Phase: tell, Log: []string{tell}})
			w.Send(jobwire.Record{Commit: tell})
			var torn bytes.Buffer
			jobwire.NewWriter(&torn, token).Send(jobwire.Record{Commit: tell})
			p.Stdout.Write(torn.Bytes()[:torn.Len()-1])
			return 1
		})
		b.local.engine.(*memengine.Engine).Fail = func(call string) error {
			switch call {
			case "Wait":
				return wait
			case "Remove":
				return errors.New(tell)
			}
			return nil
		}
		var out bytes.Buffer
		response := b.build(t.Context(), secretRequest(), &out).Response
		b.background.Wait()
		kept, globErr := filepath.Glob(filepath.Join(folder, "*.log"))
		if globErr != nil || len(kept) != 1 {
			t.Fatalf("logs kept: %v, %v", kept, globErr)
		}
		text, readErr := os.ReadFile(kept[0])
		events, eventsErr := os.ReadFile(strings.TrimSuffix(kept[0], ".log") + ".events")
		if err := errors.Join(readErr, eventsErr); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"output": out.String(), "last message": string(response.Encode()), "server's log": log.String(), "kept log": string(text),
			"journal": string(events),
		} {
			if strings.Contains(text, "secret-") || strings.Contains(text, "some-password") || strings.Contains(text, token) {
				t.Errorf("with the error %v, the %s is\n%s", wait, name, text)
			}
		}
		if strings.Count(out.String(), "told") < 2 || strings.Count(string(events), "told") < 4 || !strings.Contains(log.String(), "told") {
			t.Errorf("with the error %v, too little came out:\n%s%s", wait, &out, log)
		}
	}
}

// TestFailingReader uses a reader of the log that fails: the job ends.
func TestFailingReader(t *testing.T) {
	gone := errors.New("gone")
	b, _, _ := builder(t, func(p *memengine.Process) int {
		io.WriteString(p.Stdout, "line\n")
		<-p.Terminated
		return 143
	})
	response := b.build(t.Context(), secretRequest(), writerFunc(func([]byte) (int, error) { return 0, gone })).Response
	if response.Error != "The job was cancelled." {
		t.Errorf("got %s", response.Encode())
	}
}

// TestSilence has an engine take long before a job begins, which is not the job's silence.
func TestSilence(t *testing.T) {
	for said, want := range map[bool]schemas.Status{false: schemas.Success, true: schemas.Failed} {
		synctest.Test(t, func(t *testing.T) {
			b, _, _ := builder(t, func(p *memengine.Process) int {
				if said {
					io.WriteString(p.Stdout, "line\n")
				}
				select {
				case <-p.Terminated:
					return 143
				case <-time.After(time.Minute):
					return ends(p, jobwire.End{})
				}
			}, func(o *Options) { o.Deadlines.Silence = 10 * time.Second })
			if response := b.build(t.Context(), secretRequest(), io.Discard).Response; response.JobStatus != want {
				t.Errorf("after a line, %t: %s", said, response.Encode())
			}
		})
	}
}

// TestTail runs a task of the maintenance that prints without end.
func TestTail(t *testing.T) {
	var out lastBytes
	for range 1000 {
		out.Write(bytes.Repeat([]byte("line\n"), 10_000))
	}
	out.Write([]byte("12345\n"))
	if len(out) != maxLast || cap(out) > 1<<20 || !bytes.HasSuffix(out, []byte("line\n12345\n")) {
		t.Errorf("%d bytes in %d: %q", len(out), cap(out), out[max(0, len(out)-20):])
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestSlowReader uses a reader of the log that reads nothing until the job has ended.
func TestSlowReader(t *testing.T) {
	ended := make(chan struct{})
	b, _, _ := builder(t, func(p *memengine.Process) int {
		defer close(ended)
		for range 1000 {
			p.Stdout.Write(bytes.Repeat([]byte("line\n"), 10_000))
		}
		return ends(p, jobwire.End{})
	})
	lines := 0
	response := b.build(t.Context(), secretRequest(), writerFunc(func(p []byte) (int, error) {
		<-ended
		lines += bytes.Count(p, []byte("\nline"))
		return len(p), nil
	})).Response
	if lines < 9_990_000 || response.JobStatus != schemas.Success {
		t.Errorf("%d lines, %s", lines, response.Encode())
	}
}

// TestFirstLine checks that the log begins with the job's id, and its page if the builder knows its own address. A client
// of events gets both in the first message.
func TestFirstLine(t *testing.T) {
	for _, url := range []string{"", "https://builder.example.com"} {
		b, _, _ := builder(t, func(p *memengine.Process) int { return ends(p, jobwire.End{}) }, func(o *Options) { o.PublicURL = url })
		j := b.Start(t.Context(), secretRequest(), "", func() {})
		var lines bytes.Buffer
		var first schemas.Message
		if err := errors.Join(
			j.Follow(t.Context(), &lines),
			j.Follow(t.Context(), messageWriter(func(messages []schemas.Message) error {
				if first.Seq == 0 {
					first = messages[0]
				}
				return nil
			})),
		); err != nil {
			t.Fatal(err)
		}
		j.Wait()
		line, event := "iglu: job "+j.id, `{"type":"job","id":"`+j.id+`"`
		if url != "" {
			line, event = line+" "+url+"/jobs/"+j.id, event+`,"url":"`+url+"/jobs/"+j.id+`"`
		}
		if !strings.HasPrefix(lines.String(), line+"\n") || string(first.Event) != event+"}" || first.Response.JobStatus != schemas.Starting {
			t.Errorf("with %q: %q, first message %+v with %s", url, lines.String(), first.Response, first.Event)
		}
	}
}

type messageWriter func([]schemas.Message) error

func (messageWriter) Write(p []byte) (int, error)                      { return len(p), nil }
func (w messageWriter) WriteMessages(messages []schemas.Message) error { return w(messages) }
