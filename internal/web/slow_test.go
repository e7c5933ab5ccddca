package web

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/memnet"
)

// connect returns a function that connects to the server of a job with a log and derivations.
func connect(t *testing.T) (h fixture, dial func() net.Conn) {
	h = newFixture(t)
	h.put(t, history.Record{Job: "a", Begun: time.Now()})
	log, err := h.logs.Create("a", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	for n := range 5000 {
		log.Printf("line %d", n)
		log.Event(schemas.DerivationEvent{Derivation: fmt.Sprintf("/nix/store/%032d-a.drv", n), State: schemas.DerivationBuilding})
	}
	var network memnet.Network
	t.Cleanup(network.Serve("builder:1", h))
	return h, func() net.Conn {
		conn, err := network.Dial(context.Background(), "tcp", "builder:1")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
}

// wholeAnswers are the paths of answers that are sent at once.
var wholeAnswers = []string{"/api/v1/jobs/a/derivations", "/api/v1/jobs/a/lines", "/api/v1/jobs", "/jobs/a"}

// TestSlowReader requests an answer and does not read it. The server must not hold the answer for ever.
func TestSlowReader(t *testing.T) {
	for _, path := range wholeAnswers {
		t.Run(path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, dial := connect(t)
				conn := dial()
				fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: builder\r\n\r\n", path)
				time.Sleep(2 * h.options.ClientTimeout)
				if text, err := io.ReadAll(io.LimitReader(conn, 1)); len(text) > 0 {
					t.Errorf("the server still sends: %v", err)
				}
			})
		})
	}
}

// TestSlowSearchers has as many clients search as may do so at once, which do not read their answers. The next client need
// not wait for them.
func TestSlowSearchers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, dial := connect(t)
		h.options.ClientTimeout = time.Hour
		search := func() net.Conn {
			conn := dial()
			fmt.Fprint(conn, "GET /api/v1/jobs/a/search?q=line HTTP/1.1\r\nHost: builder\r\n\r\n")
			return conn
		}
		for range maxSearches {
			search()
		}
		synctest.Wait()
		if response, err := http.ReadResponse(bufio.NewReader(search()), nil); err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("%+v, %v", response, err)
		}
	})
}

// TestUsableConnection reads an answer, and requests another one on the same connection after a pause.
func TestUsableConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, dial := connect(t)
		conn := dial()
		in := bufio.NewReader(conn)
		for _, path := range wholeAnswers {
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: builder\r\n\r\n", path)
			response, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(path, err)
			}
			if text, err := io.ReadAll(response.Body); err != nil || len(text) == 0 || response.StatusCode != http.StatusOK {
				t.Errorf("%s: %s, %d bytes, %v", path, response.Status, len(text), err)
			}
			time.Sleep(2 * h.options.ClientTimeout)
		}
	})
}
