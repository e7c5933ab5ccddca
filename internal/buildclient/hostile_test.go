package buildclient

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/termtest"
)

// hostile are lines that would change a terminal or deceive its user.
var hostile = []string{
	"\x1b]0;owned\a title", "\x1b[2J\x1b[H cleared", "\x1b]52;c;aGVsbG8=\a clipboard", "\u009b2J\u009d0;owned\u009c C1",
	"\u202ereversed\u202c", "a\bb\x00c\x7f", "<script>alert(1)</script>", "日本語 🧊 é",
}

// hostileJob prints all hostile lines, and uses them as names.
func hostileJob(b *builderConn) {
	b.accept()
	b.lines(hostile...)
	b.event(schemas.PhaseEvent{Phase: "\x1b]0;owned\a"})
	b.event(schemas.DerivationEvent{Derivation: "/nix/store/h-\x1b[2J.drv", State: schemas.DerivationFailed, Phase: "\x1bc", Log: []string{"\x1b[2J"}})
	b.end(schemas.Unable("\x1b]0;owned\a.", "\x1b[2J"), &schemas.VerdictEvent{Phases: []schemas.PhaseTime{{Phase: "\x1bc"}}, Commit: "\x1bc"})
	b.untilGone()
}

// TestHostileLogOnTerminal checks that a log cannot change a terminal.
func TestHostileLogOnTerminal(t *testing.T) {
	term := termtest.Open(t, 120, 40)
	<-submit(t, Options{URL: startBuilder(t, true, hostileJob), Stdout: term.TTY, now: newClock().Now})
	var want []string
	for _, line := range hostile {
		want = append(want, string(termtext.AppendLine(nil, []byte(line), true)))
	}
	want = append(want, "", "^[[2J failed in ^[c; its last lines:", "  ^[[2J", "",
		"Failed after 0.0s: ^[]0;owned^G. ^[[2J", "  phases  ^[c 0.0s", "  commit  ^[c")
	term.Want(strings.Join(want, "\n"))
	if term.Title() != "" || term.Bells() > 0 {
		t.Errorf("title %q, %d bells", term.Title(), term.Bells())
	}
}

// TestHostileLogInFile checks that every byte is kept if the output is not a terminal.
func TestHostileLogInFile(t *testing.T) {
	var stdout, want, stderr bytes.Buffer
	got := <-submit(t, Options{URL: startBuilder(t, true, hostileJob), Stdout: &stdout, Stderr: &stderr})
	for _, line := range hostile {
		want.WriteString(line + "\n")
	}
	if stdout.String() != want.String() {
		t.Errorf("got %q\nwant %q", &stdout, &want)
	}
	if text := stderr.String() + got.err.Error(); strings.ContainsAny(text, "\x1b\a") {
		t.Errorf("standard error gets %q", text)
	}
}

// TestHostileLogOnDumbTerminal checks that a terminal with TERM=dumb gets plain text.
func TestHostileLogOnDumbTerminal(t *testing.T) {
	term := termtest.Open(t, 120, 40)
	t.Setenv("TERM", "dumb")
	<-submit(t, Options{URL: startBuilder(t, true, hostileJob), Stdout: term.TTY, Stderr: io.Discard, now: newClock().Now})
	var want []string
	for _, line := range hostile {
		want = append(want, termtext.Visible(line))
	}
	term.Want(strings.Join(want, "\n"))
	if term.Title() != "" || term.Bells() > 0 {
		t.Errorf("title %q, %d bells", term.Title(), term.Bells())
	}
}

// TestHostileMessages prints the messages as JSON: on a terminal control characters are escaped, in a file the
// messages are unchanged.
func TestHostileMessages(t *testing.T) {
	hostileLines := func(b *builderConn) {
		b.accept()
		b.lines(hostile...)
		b.end(schemas.Exited(1), nil)
		b.untilGone()
	}
	term := termtest.Open(t, 300, 40)
	<-submit(t, Options{URL: startBuilder(t, false, hostileLines), Stdout: term.TTY, Stderr: io.Discard, JSON: true})
	term.Finish()
	for _, escaped := range []string{`\u009b2J\u009d0;owned`, `\u202ereversed\u202c`} {
		if !strings.Contains(term.Bytes(), escaped) {
			t.Errorf("no %s in %q", escaped, term.Bytes())
		}
	}
	var file bytes.Buffer
	<-submit(t, Options{URL: startBuilder(t, false, hostileLines), Stdout: &file, Stderr: io.Discard, JSON: true})
	if !strings.Contains(file.String(), "\u009b2J") || !strings.Contains(file.String(), "\u202ereversed") {
		t.Errorf("in a file the messages are %q", &file)
	}
}

// TestEndlessMessage checks that a client does not keep a message of any size in memory, as Watch does not either.
func TestEndlessMessage(t *testing.T) {
	sent := 0
	url := startBuilder(t, true, func(b *builderConn) {
		w, err := b.conn.NextWriter(websocket.TextMessage)
		if err != nil {
			t.Error(err)
			return
		}
		for piece := make([]byte, 64<<10); err == nil && sent < 2*maxMessage; sent += len(piece) {
			_, err = w.Write(piece)
		}
	})
	got := <-submit(t, Options{URL: url, Stdout: io.Discard, Stderr: io.Discard})
	if got.code != ExitClient || !errors.Is(got.err, errTooLong) {
		t.Errorf("exit code %d, error %v", got.code, got.err)
	}
}
