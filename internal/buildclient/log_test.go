package buildclient

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/termtest"
)

func TestShowLog(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer right":
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(r.URL.Path, "none"):
			http.Error(w, "There is no such job.\a", http.StatusNotFound)
		default:
			fmt.Fprintf(w, "%s \x1b[31mred\a\n", r.URL)
		}
	}))
	defer server.Close()
	for _, test := range []struct {
		token, job, derivation string
		follow                 bool
		want, err              string
	}{
		{"right", "a2", "", false, "/api/v1/jobs/a2/log \x1b[31mred\a\n", ""},
		{"right", "a2", "", true, "/api/v1/jobs/a2/log?follow=1 \x1b[31mred\a\n", ""},
		{"right", "a2", "odd+name?", false, "/api/v1/jobs/a2/derivations/odd+name%3F/log \x1b[31mred\a\n", ""},
		{"right", "none", "", false, "", "/api/v1/jobs/none/log refuses: There is no such job.^G"},
		{"wrong", "a2", "", false, "", "needs another token"},
		{"", "a2", "", false, "", "needs a token, and none was given"},
	} {
		var out bytes.Buffer
		err := ShowLog(t.Context(), Options{URL: addressOf(t, server), Token: test.token, Stdout: &out}, KeptLog{test.job, test.derivation, test.follow})
		if out.String() != test.want || (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%+v: %q, %v", test, &out, err)
		}
	}
	// A terminal gets no control sequences except colours.
	term := termtest.Open(t, 80, 24)
	if err := ShowLog(t.Context(), Options{URL: addressOf(t, server), Token: "right", Stdout: term.TTY}, KeptLog{Job: "a2"}); err != nil {
		t.Fatal(err)
	}
	term.Want("/api/v1/jobs/a2/log red^G")
	server.Close()
	if err := ShowLog(t.Context(), Options{URL: addressOf(t, server), Stdout: term.TTY}, KeptLog{Job: "a2"}); err == nil || !strings.HasPrefix(err.Error(), "no builder answers at ") {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestLogOnDumbTerminal shows a log on a terminal that can only scroll: it has no colours, as with NO_COLOR.
func TestLogOnDumbTerminal(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "\x1b[31mred\n")
	}))
	defer server.Close()
	for _, test := range []struct {
		term    string
		noColor bool
		want    string
	}{
		{"dumb", false, "red\r\n"},
		{"xterm-256color", true, "red\r\n"},
		{"xterm-256color", false, "\x1b[31mred\x1b[0m\r\n"},
	} {
		term := termtest.Open(t, 80, 24)
		t.Setenv("TERM", test.term)
		options := Options{URL: addressOf(t, server), Stdout: term.TTY, NoColor: test.noColor}
		if err := ShowLog(t.Context(), options, KeptLog{Job: "a"}); err != nil {
			t.Fatal(err)
		}
		term.Finish()
		if got := term.Bytes(); got != test.want {
			t.Errorf("%+v: %q", test, got)
		}
	}
}

// After a failed derivation, the client prints the command that shows its whole log.
func TestWhereLogsAre(t *testing.T) {
	const job = "2k5q3xn7plkugqbsfzu5x36zqa"
	failed := schemas.DerivationEvent{Derivation: "/nix/store/93s9qh4dv29fnalqrgc9pg8ks6w68cnd-hello-2.12.drv", State: schemas.DerivationFailed, Log: []string{"two"}}
	commandFor := func(builder *url.URL) string {
		return "iglu-builder log --url " + strings.TrimSuffix(builder.String(), schemas.BuildPath) + " " + job + " hello-2.12"
	}
	script := func(b *builderConn) {
		accepted := schemas.Accepted()
		b.send(schemas.Message{Response: &accepted, Event: schemas.AppendEvent(nil, schemas.JobEvent{ID: job})})
		b.lines("a line")
		b.event(failed)
		b.end(schemas.Exited(1), &schemas.VerdictEvent{End: "exited", ExitCode: number(1)})
		b.untilGone()
	}
	address := startBuilder(t, true, script)
	var out, errors bytes.Buffer
	if code, _ := Submit(t.Context(), Options{URL: address, Stdout: &out, Stderr: &errors}); code != 1 {
		t.Errorf("exit code %d", code)
	}
	want := commandFor(address)
	if !strings.Contains(errors.String(), "iglu-builder: the log of hello-2.12: "+want+"\n") {
		t.Errorf("standard error lacks %q: %s", want, &errors)
	}
	address = startBuilder(t, true, script)
	term := termtest.Open(t, 200, 24)
	if code, _ := Submit(t.Context(), Options{URL: address, Stdout: term.TTY}); code != 1 {
		t.Errorf("exit code %d", code)
	}
	want = commandFor(address)
	term.Want("a line\n\nhello-2.12 failed; its last lines:\n  two\n  all of them: " + want + "\n\nFailed with exit code 1 after 0.0s\n")
	local, err := ParseAddress("127.0.0.1:3000")
	if err != nil {
		t.Fatal(err)
	}
	if got := logCommand(local, job, failed.Derivation); got != "iglu-builder log "+job+" hello-2.12" {
		t.Error(got)
	}
}

// A derivation can be given by its store path, as Nix prints it.
func TestLogOfPath(t *testing.T) {
	const file = "93s9qh4dv29fnalqrgc9pg8ks6w68cnd-hello-2.12.drv"
	api, o := startAPI(t, func(http.ResponseWriter, *http.Request, int) {})
	o.Stdout = io.Discard
	for _, derivation := range []string{"hello-2.12", "/nix/store/" + file, file} {
		if err := ShowLog(t.Context(), o, KeptLog{Job: "a2", Derivation: derivation}); err != nil {
			t.Error(err)
		}
	}
	const begin, end = "GET /api/v1/jobs/a2/derivations/", "/log"
	api.wantAsked(t, begin+"hello-2.12"+end, begin+file+end, begin+file+end)
}
