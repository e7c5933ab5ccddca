//go:build integration && long

package protocol

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// fuzzCorpus returns the stored corpus of the fuzz test of requests, and some normal jobs.
func fuzzCorpus(t *testing.T) (corpus [][]byte) {
	t.Helper()
	names, err := filepath.Glob(fixture.RepoPath("schemas/testdata/fuzz/FuzzParseRequest/*"))
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
	return append(corpus, []byte(fixture.JSONOf(t, fixture.Command("no-such-program"))))
}

// malformed returns an input with some bytes changed, so that it is not valid JSON.
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

// TestMalformedMessages sends 10,000 malformed first messages while a job of another server runs. Each is refused,
// and both servers keep working.
func TestMalformedMessages(t *testing.T) {
	const messages = 10_000
	runningClient := fixture.Connect(t, fixture.Env.Server)
	runningClient.Send(fixture.JSONOf(t, fixture.Command("sh -c 'echo begun; while ! [ -e /tmp/end ]; do sleep 0.1; done; sleep 2; echo done'")))
	runningClient.WaitFor(`"begun"`)
	container := fixture.Env.Server.Containers()[0]

	s := fixture.ServerWith(t, func(*server.Settings) {})
	fixture.WantFree(t, s)
	corpus, random := fuzzCorpus(t), rand.New(rand.NewPCG(5, 10_000))
	before := fixture.CountAll(t, s)
	for n := range messages {
		message := malformed(random, corpus[n%len(corpus)])
		c := fixture.Connect(t, s)
		if err := c.Conn.WriteMessage(websocket.TextMessage, message); err != nil {
			t.Fatal(err)
		}
		got, code := c.Read()
		if !strings.HasPrefix(got, notJSON) || code != 0 {
			t.Fatalf("message %d, %q: got %s, close code %d", n, message, got, code)
		}
		c.Conn.Close()
		if n%100 == 0 { // the same to the client of a running job
			runningClient.Send(string(message))
			if got := runningClient.Next(); got != fixture.Busy {
				t.Fatalf("during the job: %s", got)
			}
		}
	}
	fixture.WantFree(t, s)
	fixture.WantNotMore(t, s, before)
	fixture.Docker(t, "exec", container, "/bin/sh", "-c", "> /tmp/end")
	got := runningClient.Finish()
	fixture.WantLine(t, got, "done")
	if fmt.Sprint(got.Messages) != fmt.Sprint([]string{fixture.Succeeded}) {
		t.Errorf("the other server's job ended with %v", got.Messages)
	}
}
