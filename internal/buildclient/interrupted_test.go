package buildclient

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/schemas"
)

// TestInterrupted interrupts clients at each step of a job. The error says what has become of the job.
func TestInterrupted(t *testing.T) {
	busy := schemas.Busy()
	for name, test := range map[string]struct {
		// steps are the builder's, from the job's arrival on. interrupt ends the client's context.
		steps func(b *builderConn, interrupt func())
		want  result
	}{
		"not accepted yet": {func(b *builderConn, interrupt func()) {
			interrupt()
			b.untilGone()
		}, result{ExitClient, cancelled}},
		"accepted": {func(b *builderConn, interrupt func()) {
			b.accept()
			interrupt()
			b.untilGone()
		}, result{ExitClient, cancelled}},
		"busy": {func(b *builderConn, interrupt func()) {
			b.conn.WriteMessage(websocket.TextMessage, busy.Encode())
			b.untilGone()
			interrupt()
		}, result{ExitClient, notSent}},
		"ended": {func(b *builderConn, interrupt func()) {
			b.accept()
			b.end(schemas.Exited(0), nil)
			b.untilGone()
			interrupt()
		}, result{0, nil}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			u := startBuilder(t, true, func(b *builderConn) { test.steps(b, interrupt) })
			code, err := Submit(ctx, Options{URL: u, Job: []byte("{}"), Stdout: io.Discard, Stderr: io.Discard, Wait: true})
			if got := (result{code, err}); got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

// TestInterruptedBeforeAnswer interrupts clients that wait for an answer to their connection, or to a posted job.
func TestInterruptedBeforeAnswer(t *testing.T) {
	for name, test := range map[string]struct {
		send func(ctx context.Context, o Options) error
		want Interrupted
	}{
		"connected": {func(ctx context.Context, o Options) error { _, err := Submit(ctx, o); return err }, notSent},
		"posted":    {func(ctx context.Context, o Options) error { _, _, err := Detach(ctx, o); return err }, notAnswered},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body) // otherwise the server does not notice that the client has gone
				interrupt()
				<-r.Context().Done()
			}))
			defer server.Close()
			if err := test.send(ctx, Options{URL: addressOf(t, server), Job: []byte("{}"), Stdout: io.Discard, Stderr: io.Discard}); err != test.want {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
}
