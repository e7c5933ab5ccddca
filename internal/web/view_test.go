package web

import (
	"testing"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/jobend"
)

// TestTook checks how long jobs took. The clock was set back while the last two ran.
func TestTook(t *testing.T) {
	for took, want := range map[time.Duration]string{
		0:                       "0 s",
		4200 * time.Millisecond: "4.2 s",
		42 * time.Second:        "42 s",
		3 * time.Hour:           "3 h 0 min",
		-time.Millisecond:       "0 s",
		-time.Hour:              "0 s",
	} {
		begun := time.Now()
		if got := (jobView{history.Record{Begun: begun, Ended: begun.Add(took), End: jobend.Exited}}).Took(); got != want {
			t.Errorf("%v: %q, not %q", took, got, want)
		}
		if took < 0 {
			if got := (jobView{history.Record{Begun: begun.Add(-took)}}).Took(); got != want {
				t.Errorf("a job that runs since %v: %q, not %q", took, got, want)
			}
		}
	}
}
