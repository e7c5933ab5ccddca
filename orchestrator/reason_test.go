package orchestrator

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/schemas"
)

// A job that failed says why: in a headline, in the last message, in a line before it, and in its record.
func TestReasons(t *testing.T) {
	for name, test := range map[string]struct {
		command     string
		reason, msg string
		line        string
	}{
		"said in the container": {"fail make: *** Error 2", "hello-2.12 failed: make: *** Error 2",
			"hello-2.12 failed: make: *** Error 2. Its own log says more.", ""},
		"a secret in it": {"fail the key is hunter2hunter2", "hello-2.12 failed: the key is ***", "hello-2.12 failed: the key is ***. Its own log says more.", ""},
		"last line":      {"print \x1b[31mno rule to make target", "the command ended with exit code 3: no rule to make target", "the command ended with exit code 3: no rule to make target. The end of its log may say more.", ""},
		"no line":        {"print ", "the command ended with exit code 3", "the command ended with exit code 3. The end of its log may say more.", ""},
		"memory":         {"memory 1", "out of memory", "The job ran out of memory. It may use ", ""},
		"memory at once": {"memory", "out of memory", "The job ran out of memory. It may use ", ""},
		"push":           {"push", "the build itself succeeded, but 1 of 2 paths was not pushed", "The build itself succeeded, but 1 of 2 paths was not pushed. ", ""},
		"too long":       {"linger", "cancelled: it ran longer than 30m0s, ", "It ran longer than 30m0s, ", "The job was cancelled. It ran longer than 30m0s, "},
		"success":        {"count 0", "", "Build was successfull", "and 20"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, "docker-20.10.24", nil)
				request := requestOf(test.command)
				request.BuildOptions.Cachix.APIKey = "hunter2hunter2"
				end := f.send(request).finish()
				f.b.background.Wait()
				if !strings.HasPrefix(end.event.Reason, test.reason) || test.reason == "" && end.event.Reason != "" {
					t.Errorf("the reason is %q, want %q", end.event.Reason, test.reason)
				}
				if !strings.HasPrefix(end.response.Msg, test.msg) {
					t.Errorf("the last message has %q, want %q", end.response.Msg, test.msg)
				}
				lines := strings.Split(strings.TrimSpace(end.lines), "\n")
				want := "iglu: failed: " + test.msg
				if test.line != "" {
					want = "iglu: failed: " + test.line
				}
				if last := lines[len(lines)-1]; strings.HasPrefix(last, want) != (test.reason != "") {
					t.Errorf("the last line is %q", last)
				}
				if record := f.records.last(); record.Reason != end.event.Reason {
					t.Errorf("the record has %q", record.Reason)
				}
			})
		})
	}
}

// A job's results are in an event before its end, and in its record, without secrets.
func TestResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, "docker-20.10.24", nil)
		request := requestOf("yield")
		request.BuildOptions.Cachix.APIKey = "hunter2hunter2"
		f.send(request).finish()
		f.b.background.Wait()
		const want = `{"type":"results","results":[{"installable":".#***","paths":["/nix/store/a"]}],"pushed":{"paths":1,"bytes":2},"target":"https://example.com/a"}`
		if got := string(f.records.last().Results); got != want {
			t.Errorf("the record has %s", got)
		}
		reader, err := f.b.logs.Reader(f.records.latest())
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		var events []string
		err = reader.FollowEvents(t.Context(), 1, func(messages []schemas.Message) error {
			for _, m := range messages {
				events = append(events, string(m.Event))
			}
			return nil
		})
		if n := len(events); err != nil || n < 3 || events[n-3] != want { // the phase done and the verdict follow
			t.Errorf("%v: %q", err, events)
		}
	})
}

// TestReasonOfLastLine has nothing but the last line of the log to say why.
func TestReasonOfLastLine(t *testing.T) {
	for last, want := range map[string]string{
		"":                                     "the command ended with exit code 2",
		"make: *** no rule":                    "the command ended with exit code 2: make: *** no rule",
		"error: unrecognised flag '--no-such'": "unrecognised flag '--no-such'",
		"\x1b[31;1merror:\x1b[0m 'x' is no command": "'x' is no command",
	} {
		if got := (Verdict{ExitCode: 2, lastLine: last}).Reason(); got != want {
			t.Errorf("%q: got %q, want %q", last, got, want)
		}
	}
}

// A job that ran out of memory says what ended because of that, if this is known.
func TestReasonOfMemory(t *testing.T) {
	for reason, want := range map[string]string{"": "out of memory", "hello failed": "out of memory: hello failed"} {
		v := Verdict{ExitCode: 1, Err: &engine.Failure{End: jobend.OutOfMemory, What: "The job ran out of memory."}, reason: reason}
		if got := v.Reason(); got != want {
			t.Errorf("%q: got %q, want %q", reason, got, want)
		}
	}
	v := Verdict{ExitCode: 1, Err: &engine.Failure{End: jobend.Killed, What: "It was killed."}, reason: "hello failed"}
	if got := v.Reason(); got != "it was killed" {
		t.Errorf("of another end: got %q", got)
	}
}

func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]float64{0: 0, 999 * time.Microsecond: 0, 1500 * time.Millisecond: 1.5, time.Minute: 60} {
		if got := seconds(d); got != want {
			t.Errorf("%s: %g, want %g", d, got, want)
		}
	}
}

// The document's error stays as it is.
func TestReasonBesideError(t *testing.T) {
	v := Verdict{ExitCode: 7, reason: "hello failed", advice: "See its log."}
	want := `{"error":"Something went wrong while building. Builder exited with error code 7","msg":"hello failed. See its log.","buildExitCode":7,"childExitCode":7,"jobStatus":"failed"}`
	if got := string(v.Response().Encode()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := string((Verdict{}).Response().Encode()); got != string(schemas.Exited(0).Encode()) {
		t.Errorf("a success is %s", got)
	}
}

func (r *keptRecords) last() history.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all[len(r.all)-1]
}
