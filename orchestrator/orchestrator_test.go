package orchestrator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted is an engine whose containers do what a test says. What a real engine does
// is tested with a real one, in cmd/iglu-builder.
type scripted func(ctx context.Context, c container, stdout, stderr io.Writer, say func(string)) (int, error)

var _ engine = scripted(nil)

func (s scripted) ping(context.Context) error                { return nil }
func (s scripted) close() error                              { return nil }
func (s scripted) isOfJobs(netip.Addr) bool                  { return false }
func (s scripted) check(context.Context, *slog.Logger) error { return nil }
func (s scripted) tend(context.Context, *slog.Logger)        {}
func (s scripted) stores(context.Context) ([]Store, error)   { return nil, nil }
func (s scripted) storesSize() (int, int64)                  { return 0, 0 }
func (s scripted) removeStore(context.Context, string) error { return nil }
func (s scripted) clean(context.Context, func(kind, name string)) error {
	return nil
}
func (s scripted) run(ctx context.Context, c container, stdout, stderr io.Writer, say func(string)) (int, error) {
	return s(ctx, c, stdout, stderr, say)
}

// builder returns a builder on an engine, its log, and the folder of its jobs' logs.
func builder(t *testing.T, e engine) (b *Builder, log *bytes.Buffer, folder string) {
	t.Helper()
	folder = t.TempDir()
	logs, err := joblog.Open(folder, joblog.Keep{Jobs: 10}, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	records, err := history.Open(filepath.Join(t.TempDir(), "history.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { records.Close() })
	log = new(bytes.Buffer)
	options := &slog.HandlerOptions{Level: slog.LevelDebug}
	return &Builder{engine: e, logs: logs, records: records, log: slog.New(slog.NewTextHandler(log, options)),
		options: Options{Observer: nobody{}}, running: make(map[string]context.CancelCauseFunc)}, log, folder
}

// secretRequest is a request whose secrets are told apart at sight.
func secretRequest() *schemas.Request {
	return &schemas.Request{
		Git: schemas.Git{GitKey: "-----BEGIN KEY-----\nsecret-git-1\nsecret-git-2\n-----END KEY-----"},
		BuildOptions: schemas.BuildOptions{
			Command: "nix build",
			Cachix:  schemas.Cachix{Push: true, Target: "http://h/c", APIKey: "secret-api", SigningKey: "secret-signing"},
		},
	}
}

// TestNoWayOutForSecrets has an engine tell them wherever it can: in the output, in
// what it says, in its error, in the server's log.
func TestNoWayOutForSecrets(t *testing.T) {
	tell := "secret-git-1 secret-git-2 secret-api secret-signing https://user:some-password@host/ told"
	for _, err := range []error{
		errors.New(tell),
		&failure{what: tell, advice: tell, cause: errors.New(tell)},
		fmt.Errorf("around: %w", &failure{what: tell, advice: tell, cause: errors.New(tell)}),
		nil,
	} {
		token := ""
		b, log, folder := builder(t, scripted(func(ctx context.Context, c container, stdout, stderr io.Writer, say func(string)) (int, error) {
			if !strings.Contains(strings.Join(c.told.Environ(), "\n"), "secret-signing") {
				t.Error("the container is not told the secrets")
			}
			token = c.told.EventsToken
			io.WriteString(stdout, tell+"\n")
			io.WriteString(stderr, tell)
			w := jobwire.NewWriter(stdout, token)
			w.Event(schemas.LineEvent{Derivation: tell, Text: tell})
			w.Event(schemas.DerivationEvent{Derivation: tell, State: schemas.DerivationFailed, Phase: tell, Log: []string{tell}})
			w.Note(jobwire.Note{Commit: tell})
			var torn bytes.Buffer
			jobwire.NewWriter(&torn, token).Note(jobwire.Note{Commit: tell})
			stdout.Write(torn.Bytes()[:torn.Len()-1])
			say(tell)
			c.log.Warn(tell, "err", errors.New(tell))
			return 1, err
		}))
		var out bytes.Buffer
		response := b.Build(t.Context(), secretRequest(), &out).Response
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
				t.Errorf("with the error %v, the %s is\n%s", err, name, text)
			}
		}
		if strings.Count(out.String(), "told") != 3 || strings.Count(string(events), "told") < 5 || !strings.Contains(log.String(), "told") {
			t.Errorf("with the error %v, too little came out:\n%s%s", err, &out, log)
		}
	}
}

// TestFailingReader has the reader of the log fail: the job ends.
func TestFailingReader(t *testing.T) {
	gone := errors.New("gone")
	b, _, _ := builder(t, scripted(func(ctx context.Context, c container, stdout, stderr io.Writer, say func(string)) (int, error) {
		io.WriteString(stdout, "line\n")
		<-ctx.Done()
		return 0, context.Cause(ctx)
	}))
	response := b.Build(t.Context(), secretRequest(), writerFunc(func([]byte) (int, error) { return 0, gone })).Response
	if response.Error != "The job was cancelled." {
		t.Errorf("got %s", response.Encode())
	}
}

// TestSilence has an engine take long before a job begins, which is not the job's silence.
func TestSilence(t *testing.T) {
	const silence = 100 * time.Millisecond
	for said, want := range map[bool]schemas.Status{false: schemas.Success, true: schemas.Failed} {
		b, _, _ := builder(t, scripted(func(ctx context.Context, c container, stdout, stderr io.Writer, say func(string)) (int, error) {
			say("filling the store")
			if said {
				io.WriteString(stdout, "line\n")
			}
			select {
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			case <-time.After(5 * silence):
				return 0, nil
			}
		}))
		b.options.Deadlines.Silence = silence
		if response := b.Build(t.Context(), secretRequest(), io.Discard).Response; response.JobStatus != want {
			t.Errorf("after a line, %t: %s", said, response.Encode())
		}
	}
}

// TestTail has a task of upkeep print without end.
func TestTail(t *testing.T) {
	var out tail
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

// TestSlowReader has the reader of the log stand still until the job has ended.
func TestSlowReader(t *testing.T) {
	ended := make(chan struct{})
	b, _, _ := builder(t, scripted(func(ctx context.Context, c container, stdout, stderr io.Writer, say func(string)) (int, error) {
		defer close(ended)
		for range 1000 {
			if _, err := stdout.Write(bytes.Repeat([]byte("line\n"), 10_000)); err != nil {
				return 0, err
			}
		}
		return 0, nil
	}))
	lines := 0
	response := b.Build(t.Context(), secretRequest(), writerFunc(func(p []byte) (int, error) {
		<-ended
		lines += bytes.Count(p, []byte("\n"))
		return len(p), nil
	})).Response
	if lines != 10_000_000 || response.JobStatus != schemas.Success {
		t.Errorf("%d lines, %s", lines, response.Encode())
	}
}
