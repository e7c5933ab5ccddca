package web

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

func TestDerivationLogs(t *testing.T) {
	h := newFixture(t)
	h.put(t, history.Record{Job: "job", Begun: time.Now()})
	log, err := h.logs.Create("job", redact.New())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	log.Respond(schemas.Accepted(), nil)
	if got := h.get("/api/v1/jobs/job/derivations"); got.Body.String() != `{"derivations":[]}`+"\n" {
		t.Errorf("%d: %s", got.Code, got.Body)
	}
	for _, drv := range []string{"a1-hello-2.12.drv", "b2-twin.drv", "c3-twin.drv", "d4-odd+name?.drv"} {
		log.Event(schemas.DerivationEvent{Derivation: "/nix/store/" + drv, State: schemas.DerivationBuilding})
		log.Event(schemas.LineEvent{Derivation: "/nix/store/" + drv, Text: "<of> " + drv})
	}
	log.Event(schemas.DerivationEvent{Derivation: "/nix/store/a1-hello-2.12.drv", State: schemas.DerivationBuilt})
	var list struct{ Derivations []joblog.Derivation }
	if err := json.Unmarshal(h.get("/api/v1/jobs/job/derivations").Body.Bytes(), &list); err != nil || len(list.Derivations) != 4 ||
		list.Derivations[0].Path != "/nix/store/a1-hello-2.12.drv" || list.Derivations[0].State != schemas.DerivationBuilt {
		t.Errorf("%v: %+v", err, list)
	}
	server := httptest.NewServer(h) // a recorder has no deadlines
	defer server.Close()
	fetch := func(path string) (*http.Response, string) {
		t.Helper()
		got, err := server.Client().Get(server.URL + "/api/v1/jobs/" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer got.Body.Close()
		text, err := io.ReadAll(got.Body)
		if err != nil {
			t.Fatal(err)
		}
		return got, string(text)
	}
	var many []string // only some are listed
	for i := range 2 * maxHashes {
		log.Event(schemas.DerivationEvent{Derivation: fmt.Sprintf("/nix/store/m%02d-many.drv", i), State: schemas.DerivationBuilding})
		if i < maxHashes {
			many = append(many, fmt.Sprintf("m%02d, ", i))
		}
	}
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"job/derivations/hello-2.12/log":          {http.StatusOK, "<of> a1-hello-2.12.drv\n"},
		"job/derivations/hello-2.12/log?follow=1": {http.StatusOK, "<of> a1-hello-2.12.drv\n"},
		"job/derivations/a1/log":                  {http.StatusOK, "<of> a1-hello-2.12.drv\n"},
		"job/derivations/c3-twin.drv/log":         {http.StatusOK, "<of> c3-twin.drv\n"},
		"job/derivations/c3-twin/log":             {http.StatusOK, "<of> c3-twin.drv\n"},
		"job/derivations/odd+name%3F/log":         {http.StatusOK, "<of> d4-odd+name?.drv\n"},
		"job/derivations/twin/log":                {http.StatusConflict, "2 derivations have that name. Ask for one of their hashes: b2, c3\n"},
		"job/derivations/many/log":                {http.StatusConflict, "40 derivations have that name. Ask for one of their hashes: " + strings.Join(many, "") + "…\n"},
		"job/derivations/none/log":                {http.StatusNotFound, "The job has not begun to build such a derivation.\n"},
		"none/derivations/none/log":               {http.StatusNotFound, "There is no such job, or it is no longer kept.\n"},
		"none/derivations":                        {http.StatusNotFound, "There is no such job, or it is no longer kept.\n"},
		"job/derivations/a1/log?follow=2":         {http.StatusBadRequest, "follow is not a whole number from 0 to 1.\n"},
	} {
		got, text := fetch(path)
		if got.StatusCode != want.code || text != want.text || !strings.HasPrefix(got.Header.Get("Content-Type"), "text/plain") {
			t.Errorf("%s: %s %q", path, got.Status, text)
		}
	}
	if got, _ := fetch("job/derivations/odd+name%3F/log?download=1"); got.Header.Get("Content-Disposition") != `attachment; filename="iglu-builder-job-odd+name?.log"` {
		t.Error(got.Header)
	}
}
