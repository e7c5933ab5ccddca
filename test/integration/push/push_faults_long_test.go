//go:build integration && long

package push

import (
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/devcache"
	"iglu.sh/builder/test/kit/fixture"
)

// TestPushFaults makes the cache fail at each step of a push. Either the push is retried and succeeds, or the job
// reports that the build succeeded and the push failed. In that case the failed path is not announced.
func TestPushFaults(t *testing.T) { fixture.OnEngines(t, pushFaults) }

func pushFaults(t *testing.T, e *fixture.Engine) {
	once := func(f devcache.Fault) devcache.Fault { return devcache.Times(1, f) }
	tests := []struct {
		name  string
		fault devcache.Fault
		why   string // the reason in the message; empty if the push succeeds
	}{
		{"401", devcache.On("POST", fixture.UploadBegin, devcache.Answer(401, "")), "the cache does not accept the API key (HTTP 401)"},
		{"403", devcache.On("POST", fixture.UploadBegin, devcache.Answer(403, "")), "the cache does not accept the API key (HTTP 403)"},
		{"404", devcache.On("POST", fixture.UploadBegin, devcache.Answer(404, "")), "the cache refuses it (HTTP 404)"},
		{"429 with Retry-After", devcache.On("POST", fixture.UploadEnd, once(devcache.Answer(429, "", "Retry-After", "1"))), ""},
		{"429 always", devcache.On("POST", fixture.UploadBegin, devcache.Answer(429, "")), "the cache asks to come back later (HTTP 429)"},
		{"500 once", devcache.On("POST", fixture.UploadPart, once(devcache.Answer(500, ""))), ""},
		{"500 always", devcache.On("POST", fixture.UploadEnd, devcache.Answer(500, "")), "the cache fails (HTTP 500)"},
		{"500 when asked what is missing", devcache.On("POST", fixture.CacheMissing, devcache.Answer(500, "")), "its results could not be pushed: ask what is missing in"},
		{"500 once when asked what is missing", devcache.On("POST", fixture.CacheMissing, once(devcache.Answer(500, ""))), ""},
		{"no ETag", devcache.On("PUT", fixture.UploadedPart, devcache.WithoutHeader("ETag")), "it does not confirm a part with an ETag"},
		{"a part breaks off", devcache.On("PUT", fixture.UploadedPart, once(devcache.BreakOff(10))), ""},
		{"parts always break off", devcache.On("PUT", fixture.UploadedPart, devcache.BreakOff(10)), "the cache cannot be reached"},
		{"unknown route answers 200", devcache.On("POST", fixture.UploadBegin, devcache.Answer(200, "OK")), "that is no answer of a cachix-compatible cache"},
		{"another NarHash in the narinfo", devcache.On("GET", fixture.CacheNarInfo,
			devcache.ReplaceField("NarHash", "sha256:0000000000000000000000000000000000000000000000000000")), "the cache does not show what was pushed"},
		{"signed by nobody", devcache.On("GET", fixture.CacheNarInfo, devcache.ReplaceField("Sig", "default:null")), "none of its 1 signatures is the one that was pushed"},
		{"narinfo not there at first", devcache.On("GET", fixture.CacheNarInfo, once(devcache.Answer(404, ""))), ""},
	}
	for _, test := range tests {
		if e.IsPodman() && !strings.HasPrefix(test.name, "500") {
			continue // the engine makes no difference here
		}
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := fixture.NewCache(t)
			// An abort never answers, as with Iglu Cache.
			hang := devcache.On("POST", fixture.UploadAbort, devcache.Hang())
			c.Misbehave(test.fault, hang)
			server := e.Server(t, func(*server.Settings) {})
			got := fixture.Do(t, server, c.Pushing(fixture.SmallJob()))
			if test.why == "" {
				fixture.WantExit(t, got, 0)
				fixture.WantTotal(t, got, 2, 0, 0)
				fixture.WantNames(t, c, fixture.BothNames)
				return
			}
			fixture.WantUnpushed(t, got, test.why)
			fixture.WantLine(t, got, "iglu: push: NOT COMPLETE: ")

			c.Misbehave()
			again := fixture.Do(t, server, c.Pushing(fixture.SmallJob()))
			fixture.WantExit(t, again, 0)
			fixture.WantNames(t, c, fixture.BothNames)
		})
	}
}

// TestClientLeavesPush disconnects the client while a push hangs. The slot is released soon.
func TestClientLeavesPush(t *testing.T) { fixture.OnEngines(t, clientLeavesPush) }

func clientLeavesPush(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(*server.Settings) {})
	cache := fixture.NewCache(t)
	begun := make(chan struct{}, 1)
	cache.Misbehave(devcache.On("POST", fixture.UploadBegin, devcache.Tell(func() { begun <- struct{}{} }, devcache.Hang())))
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, cache.Pushing(fixture.SmallJob())))
	c.WaitFor("/nix/store/")
	await.Receive(t, begun, "the push begins")
	c.Conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(time.Second))
	c.Conn.Close()
	fixture.WantFree(t, s)
}
