package web

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"iglu.sh/builder/schemas"
)

// TestCutFollow ends the server while logs are followed. The clients notice that the rest is missing. The log that is
// complete is not affected.
func TestCutFollow(t *testing.T) {
	const drv = "/nix/store/93s9qh4dv29fnalqrgc9pg8ks6w68cnd-hello-2.12.drv"
	for _, path := range []string{"log?follow=1", "derivations/hello-2.12/log?follow=1"} {
		t.Run(path, func(t *testing.T) {
			h := newFixture(t)
			server := httptest.NewServer(h)
			defer server.Close()
			log, err := h.logs.Create("a", nil)
			if err != nil {
				t.Fatal(err)
			}
			log.Printf("one")
			log.Event(schemas.LineEvent{Derivation: drv, Text: "one"})
			follow := func() *bufio.Reader {
				response, err := http.Get(server.URL + "/api/v1/jobs/a/" + path)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { response.Body.Close() })
				text := bufio.NewReader(response.Body)
				if line, err := text.ReadString('\n'); line != "one\n" || err != nil {
					t.Fatal(line, err)
				}
				return text
			}
			running := follow()
			h.Close()
			if rest, err := io.ReadAll(running); !errors.Is(err, io.ErrUnexpectedEOF) || len(rest) > 0 {
				t.Errorf("a follower that gets no more lines reads %q, %v", rest, err)
			}
			log.Complete()
			if err := log.Close(); err != nil {
				t.Fatal(err)
			}
			server.Config.Handler = New(h.records, h.logs, noJobs{}, h.options, h.log)
			if rest, err := io.ReadAll(follow()); err != nil || len(rest) > 0 {
				t.Errorf("a follower of a complete log reads %q, %v", rest, err)
			}
		})
	}
}

// TestNotBuffered checks the answers that go on while a job runs: nginx passes them on as they come.
func TestNotBuffered(t *testing.T) {
	h := newFixture(t)
	log, err := h.logs.Create("a", nil)
	if err != nil {
		t.Fatal(err)
	}
	log.Event(schemas.LineEvent{Derivation: "/nix/store/93s9qh4dv29fnalqrgc9pg8ks6w68cnd-hello-2.12.drv", Text: "one"})
	log.Complete()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"events", "log?follow=1", "derivations/hello-2.12/log?follow=1"} {
		if header := h.get("/api/v1/jobs/a/" + path).Header(); header.Get("X-Accel-Buffering") != "no" {
			t.Errorf("%s: %v", path, header)
		}
	}
}
