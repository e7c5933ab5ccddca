package server

import (
	"log/slog"
	"math"
	"testing"
	"time"

	"iglu.sh/builder/internal/joblog"
)

func TestKeepLogs(t *testing.T) {
	for text, want := range map[string]joblog.Keep{
		"0":     {},
		"20":    {Jobs: 20},
		"7d":    {Jobs: math.MaxInt, Age: 7 * 24 * time.Hour},
		"20,7d": {Jobs: 20, Age: 7 * 24 * time.Hour},
		"0d":    {},
		"20,0d": {},
	} {
		if got, err := parseKeep(text); got != want || err != nil {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}

// TestGrace checks the grace of servers that are killed early, late, or never after the request to stop.
func TestGrace(t *testing.T) {
	for _, test := range []struct{ wanted, set, engine, want time.Duration }{
		{30 * time.Second, 0, 0, 30 * time.Second}, // in no container
		{30 * time.Second, 0, 10 * time.Second, 3 * time.Second},
		{time.Second, 0, 10 * time.Second, time.Second},
		{30 * time.Second, 0, time.Minute, 30 * time.Second},
		{30 * time.Second, 0, time.Second, 0},
		{30 * time.Second, time.Minute, 10 * time.Second, 30 * time.Second}, // what is set counts
		{30 * time.Second, 10 * time.Second, 0, 3 * time.Second},
	} {
		s := Settings{ShutdownGrace: test.wanted, StopTimeout: test.set}
		if got := s.grace(test.engine, slog.New(slog.DiscardHandler)); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}
