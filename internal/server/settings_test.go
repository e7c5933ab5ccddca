package server

import (
	"bytes"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/orchestrator/stores"
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

// TestForgeable has the operator enable content-addressed derivations, of which any job's user can forge the results.
func TestForgeable(t *testing.T) {
	const enabled = "max-jobs = 4\nextra-experimental-features = dynamic-derivations ca-derivations\n"
	for _, test := range []struct {
		mode  stores.Mode
		lines string
		want  stores.Mode
	}{
		{stores.Repository, enabled, stores.Ephemeral},
		{stores.Repository, "extra-experimental-features = dynamic-derivations\n", stores.Repository},
		{stores.Repository, "", stores.Repository},
		{stores.Shared, enabled, stores.Shared}, // its jobs trust each other
		{stores.Ephemeral, enabled, stores.Ephemeral},
	} {
		var log bytes.Buffer
		got := keptStores(test.mode, orchestrator.NixSettings{Lines: test.lines}, slog.New(slog.NewTextHandler(&log, nil)))
		if got != test.want || strings.Contains(log.String(), "level=WARN") != (got != test.mode) {
			t.Errorf("%s with %q: %s, log %q", test.mode, test.lines, got, log.String())
		}
	}
}

// TestWithoutEffect has settings that have no effect because of others, and the defaults.
func TestWithoutEffect(t *testing.T) {
	for _, test := range []struct {
		args string
		want string // in the log
	}{
		{"", ""},
		{"--stop-timeout 1m --shutdown-grace 53s", ""},
		{"--shutdown-grace 6h", ""}, // nothing is known of the kill
		{"--stop-timeout 1m --shutdown-grace 10m", `level=WARN msg="running jobs get less time than IGLU_SHUTDOWN_GRACE when the server is stopped: it would be killed earlier (IGLU_STOP_TIMEOUT)" grace=53s`},
		{"--drain yes --shutdown-grace 0", `level=WARN msg="IGLU_DRAIN has no effect: IGLU_SHUTDOWN_GRACE gives jobs no time"`},
		{"--drain yes", ""},
		{"--retry-lost yes", `level=WARN msg="IGLU_RETRY_LOST has no effect: it is for several nodes (IGLU_NODES)"`},
		{"--retry-lost yes --nodes a:1", ""},
	} {
		var s Settings
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		s.Register(flags)
		if err := flags.Parse(strings.Fields(test.args)); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		s.warnOfSettings(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: withoutTime})))
		if got := strings.TrimSpace(log.String()); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.args, got, test.want)
		}
	}
}
