package server

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestHostNetwork sets networks of jobs: one of them needs a warning.
func TestHostNetwork(t *testing.T) {
	for network, want := range map[string]bool{"host": true, "": false, "none": false, "jobs": false} {
		var log bytes.Buffer
		(&Settings{JobNetwork: network}).warnOfHost(slog.New(slog.NewTextHandler(&log, nil)))
		if got := strings.Contains(log.String(), "IGLU_JOB_NETWORK"); got != want {
			t.Errorf("%q: %s", network, log.String())
		}
	}
}
