package orchestrator

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/test/kit/memengine"
)

// TestEngineRestarts has the one engine of a builder not answer for a time, while a job runs and others wait. Those that
// wait run when it is back. If it does not come back, they end when it has been silent for engineWait, and not each of
// them after that time. A job that need not wait for a slot ends at once.
func TestEngineRestarts(t *testing.T) {
	for _, test := range []struct {
		name   string
		silent time.Duration
		want   []jobend.End
		ended  time.Duration // after how much time all jobs that waited have ended
	}{
		{"restarts", 90 * time.Second, []jobend.End{jobend.Exited, jobend.Exited, jobend.Exited}, 90*time.Second + 3*time.Minute},
		{"is gone", 24 * time.Hour, []jobend.End{jobend.EngineGone, jobend.EngineGone, jobend.EngineGone}, 10*time.Second + engineWait},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, _, _ := builder(t, nil, func(o *Options) { o.MaxQueued = 10 })
				e := &machine{Engine: memengine.New(new(clock).run)}
				e.Fail = e.fail
				b.use(e)
				send := func(n int, takes string) (job string) {
					t.Helper()
					job, refusal := b.Submit(commandOf(fmt.Sprint(n, " ", takes)), "")
					if refusal != nil {
						t.Fatalf("job %d is refused: %+v", n, refusal)
					}
					time.Sleep(time.Millisecond)
					return job
				}
				send(0, "50s")
				second := send(1, "1m")
				send(2, "1m")
				send(3, "1m")
				time.Sleep(40 * time.Second)
				e.cut(true)
				begun := time.Now()
				time.AfterFunc(test.silent, func() { e.cut(false) })
				b.mu.Lock()
				for len(b.running) > 0 {
					b.changed.Wait()
				}
				b.mu.Unlock()
				if took := time.Since(begun).Round(time.Second); took < test.ended || took > test.ended+2*engineInterval {
					t.Errorf("the jobs have ended after %s, want %s", took, test.ended)
				}
				for n, want := range test.want {
					if r := record(t, b, n+1); r.End != want {
						t.Errorf("job %d has ended as %s, want %s", n+1, r.End, want)
					}
				}
				if log := logOf(t, b.logs, second); strings.Count(log, "iglu: the container engine does not answer: the job waits for it\n") != 1 {
					t.Errorf("the log of a job that has waited for it is\n%s", log)
				}
				if test.want[0] == jobend.EngineGone {
					begun := time.Now()
					send(4, "1m")
					if r := record(t, b, 4); r.End != jobend.EngineGone || time.Since(begun) > time.Second {
						t.Errorf("a job without a queue has ended as %s after %s", r.End, time.Since(begun))
					}
				}
				e.cut(false)
			})
		})
	}
}

// logOf returns a job's log.
func logOf(t *testing.T, logs *joblog.Store, job string) string {
	t.Helper()
	reader, err := logs.Reader(job)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var text strings.Builder
	if err := reader.Follow(t.Context(), 0, &text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}
