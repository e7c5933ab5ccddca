package server

import (
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
	} {
		if got, err := parseKeep(text); got != want || err != nil {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}
