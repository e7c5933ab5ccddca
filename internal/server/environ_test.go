package server

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestWarnUnknown has variables of the builder, of others, of a service of Kubernetes named iglu-builder, and wrong ones.
func TestWarnUnknown(t *testing.T) {
	environ := []string{
		"PATH=/bin", "IGLU_MAX_JOBS=2", "IGLU_URL=builder:3000", "IGLU_EMPTY=", "XIGLU_A=1", "LOG_LEVEL=INFO",
		"IGLU_BUILDER_SERVICE_HOST=10.0.0.7", "IGLU_BUILDER_SERVICE_PORT=3000", "IGLU_BUILDER_SERVICE_PORT_HTTP=3000", "IGLU_BUILDER_PORT=tcp://10.0.0.7:3000",
		"IGLU_BUILDER_PORT_3000_TCP=tcp://10.0.0.7:3000", "IGLU_BUILDER_PORT_3000_TCP_PROTO=tcp", "IGLU_BUILDER_PORT_3000_TCP_PORT=3000",
		"IGLU_BUILDER_PORT_3000_TCP_ADDR=10.0.0.7", "IGLU_PORT=3000", "IGLU_BUILDER_TAG=1.2.3",
		"IGLU_MAXJOBS=3", "IGLU_JOB_CPU=secret", "IGLU_TEST_JOB_IMAGE=x", "IGLU_URI=x", "IGLU_COMMAND=x",
	}
	want := `level=WARN msg="unknown environment variable: it has no effect" variable=IGLU_BUILDER_TAG
level=WARN msg="unknown environment variable: it has no effect" variable=IGLU_COMMAND
level=WARN msg="unknown environment variable: it has no effect; did you mean IGLU_JOB_CPUS?" variable=IGLU_JOB_CPU
level=WARN msg="unknown environment variable: it has no effect; did you mean IGLU_MAX_JOBS?" variable=IGLU_MAXJOBS
level=WARN msg="unknown environment variable: it has no effect" variable=IGLU_PORT
level=WARN msg="unknown environment variable: it has no effect" variable=IGLU_TEST_JOB_IMAGE
level=WARN msg="unknown environment variable: it has no effect; did you mean IGLU_URL?" variable=IGLU_URI
`
	var log bytes.Buffer
	WarnUnknown(environ, []string{"IGLU_URL", "IGLU_GIT_KEY"}, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: withoutTime})))
	if diff := cmp.Diff(want, log.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// withoutTime removes a record's time.
func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
