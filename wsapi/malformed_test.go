package wsapi

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/test/kit/malformed"
)

// TestMalformedMessages sends malformed messages, as the first message and while a job runs: each is refused, the job
// continues, and no goroutine is left (the bubble checks that).
func TestMalformedMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHeldBuilder()
		running := serve(t, b).dial()
		running.send(job())
		<-b.begun
		running.next()
		f := serve(t, &fakeBuilder{})
		next := malformed.Messages(t, "..", job())
		for n := range 200 {
			message := next()
			c := f.dial()
			if err := c.WriteMessage(websocket.TextMessage, message); err != nil {
				t.Fatal(err)
			}
			if got := c.next(); !strings.HasPrefix(got, `{"error":"Not a valid JSON","msg":"`) {
				t.Fatalf("message %d, %q: got %s", n, message, got)
			}
			c.Close()
			running.send(string(message))
			if got := running.next(); got != busy {
				t.Fatalf("beside the job: %s", got)
			}
		}
		wantFree(t, f)
		b.exit <- 0
		running.finish().check(t, websocket.CloseNormalClosure, succeeded)
	})
}

// TestMalformedFrames sends what is no WebSocket frame, instead of a job and while one runs.
func TestMalformedFrames(t *testing.T) {
	for name, bytes := range map[string]string{
		"not masked":           "\x81\x02{}",
		"reserved bits":        "\xf1\x80\x00\x00\x00\x00",
		"unknown opcode":       "\x83\x80\x00\x00\x00\x00",
		"continues nothing":    "\x80\x80\x00\x00\x00\x00",
		"ping in parts":        "\x09\x80\x00\x00\x00\x00",
		"ping too long":        "\x89\xfe\x00\x7e\x00\x00\x00\x00" + strings.Repeat("x", 126),
		"bad close code":       "\x88\x82\x00\x00\x00\x00\x00\x05",
		"length of 2^63 bytes": "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",
		"TLS":                  "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
	} {
		bubble(t, name, func(t *testing.T) {
			b := newHeldBuilder()
			f := serve(t, b)
			c := f.dial()
			c.NetConn().Write([]byte(bytes))
			c.finish()
			wantFree(t, f)

			c = f.dial()
			c.send(job())
			<-b.begun
			c.NetConn().Write([]byte(bytes))
			<-b.ended
			c.finish()
			wantFree(t, f)
		})
	}
}
