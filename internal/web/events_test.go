package web

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/schemas"
)

// A recorder records an answer. It accepts deadlines, and ignores them.
type recorder struct{ *httptest.ResponseRecorder }

func (recorder) SetWriteDeadline(time.Time) error { return nil }

// feedOf returns a feed without lines of a new job, what it sends, and the job's log.
func feedOf(t *testing.T, events ...schemas.Event) (f *feed, sent recorder, event func(schemas.Event)) {
	h := newFixture(t)
	log, err := h.logs.Create("a", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	event = func(e schemas.Event) {
		if err := log.Event(e); err != nil {
			t.Error(err)
		}
	}
	for _, e := range events {
		event(e)
	}
	reader, err := h.logs.Reader("a")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	sent = recorder{httptest.NewRecorder()}
	return &feed{out: newWatcher(http.ResponseWriter(sent), time.Minute), log: reader, withoutLines: true}, sent, event
}

// TestHeartbeatBetweenLines follows a job of which only derivations print something, for minutes. The watcher, which does
// not get their lines, gets heartbeats: otherwise a proxy could close its connection.
func TestHeartbeatBetweenLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, sent, event := feedOf(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			f.serve(ctx, 1)
		}()
		const minutes = 5
		for range minutes * 60 {
			time.Sleep(time.Second)
			event(schemas.LineEvent{Derivation: "a", Text: "a line"})
		}
		cancel()
		<-ended
		if got, least := strings.Count(sent.Body.String(), ":\n\n"), minutes*int(time.Minute/(heartbeat+time.Second)); got < least {
			t.Errorf("%d heartbeats in %d minutes, want at least %d: %q", got, minutes, least, sent.Body)
		}
	})
}

// TestOnlyLatestProgress loads a page of a job that has reported its progress for ten minutes, ten times a second. The page
// gets the latest progress, and all other events.
func TestOnlyLatestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const reports = 6000
		var events []schemas.Event
		for n := range reports {
			events = append(events, schemas.ProgressEvent{Bytes: schemas.Share{Done: int64(n), Expected: reports}})
			if n%1000 == 0 {
				events = append(events, schemas.DerivationEvent{Derivation: "a", State: schemas.DerivationBuilding})
			}
		}
		f, sent, event := feedOf(t, events...)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			f.serve(ctx, 1)
		}()
		synctest.Wait()
		event(schemas.ProgressEvent{Bytes: schemas.Share{Done: reports, Expected: reports}})
		time.Sleep(time.Second)
		cancel()
		<-ended
		text := sent.Body.String()
		if got := strings.Count(text, `{"type":"progress"`); got > reports/50 {
			t.Errorf("%d reports are sent, in %d bytes", got, len(text))
		}
		if got := strings.Count(text, `{"type":"derivation"`); got != reports/1000 {
			t.Errorf("%d events of derivations", got)
		}
		for _, done := range []int{reports - 1, reports} {
			if want := fmt.Sprintf(`"bytes":{"done":%d,"expected":%d}`, done, reports); !strings.Contains(text, want) {
				t.Errorf("it gets no %s", want)
			}
		}
	})
}
