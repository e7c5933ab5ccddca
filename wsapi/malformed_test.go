package wsapi

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/gorilla/websocket"
)

// fuzzCorpus returns the stored inputs of the fuzz test of requests, and a job.
func fuzzCorpus(t *testing.T) (corpus [][]byte) {
	t.Helper()
	names, err := filepath.Glob("../schemas/testdata/fuzz/FuzzParseRequest/*")
	if err != nil || len(names) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, value, _ := strings.Cut(string(text), "[]byte(")
		input, err := strconv.Unquote(strings.TrimSuffix(strings.TrimSpace(value), ")"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		corpus = append(corpus, []byte(input))
	}
	return append(corpus, []byte(job()))
}

// malformed returns an input with some of its bytes changed, so that it is no JSON.
func malformed(random *rand.Rand, input []byte) []byte {
	for {
		changed := append([]byte(nil), input...)
		for range 1 + random.IntN(4) {
			if n := len(changed); n > 0 {
				changed[random.IntN(n)] = byte(random.IntN(256))
			} else {
				changed = append(changed, byte(random.IntN(256)))
			}
		}
		if !json.Valid(changed) {
			return changed
		}
	}
}

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
		corpus, random := fuzzCorpus(t), rand.New(rand.NewPCG(5, 10_000))
		for n := range 200 {
			message := malformed(random, corpus[n%len(corpus)])
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
