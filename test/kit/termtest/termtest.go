// Package termtest is a terminal for tests. [Open] returns a [Terminal], a real pseudo-terminal with an
// emulator that renders the output, so that a test can check the screen.
package termtest

import (
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/test/kit/await"
)

// A Terminal is a terminal of a test. Its methods are safe for concurrent use.
type Terminal struct {
	t *testing.T
	// TTY is the end that programs use.
	TTY *os.File

	pty     *os.File
	done    chan struct{} // closed when all output is rendered
	drained chan struct{} // closed when the emulator sends no more answers

	mu       sync.Mutex
	raw      await.Log // all output; Want waits for it without mu
	emulator *vt.Emulator
	title    string
	bells    int
}

// Open opens a terminal with a number of columns and lines. The test must not run in parallel with others.
func Open(t *testing.T, width, height int) *Terminal {
	t.Helper()
	t.Setenv("TERM", "xterm-256color")
	ours, theirs, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	term := &Terminal{t: t, TTY: theirs, pty: ours, done: make(chan struct{}), drained: make(chan struct{}), emulator: vt.NewEmulator(width, height)}
	term.emulator.SetCallbacks(vt.Callbacks{
		Title: func(title string) { term.title = title },
		Bell:  func() { term.bells++ },
	})
	term.Resize(width, height)
	go func() {
		defer close(term.drained)
		io.Copy(io.Discard, term.emulator) // discards its answers to queries
	}()
	go func() {
		defer close(term.done)
		for buf := make([]byte, 4096); ; {
			n, err := ours.Read(buf)
			term.output(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(term.close)
	return term
}

// output renders output. It is on the screen and in Bytes at the same moment.
func (t *Terminal) output(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.emulator.Write(p)
	t.raw.Write(p)
}

func (t *Terminal) close() {
	t.Finish()
	t.pty.Close()
	t.emulator.InputPipe().(io.Closer).Close()
	<-t.drained
	t.emulator.Close()
}

// Finish waits until all output is rendered. Nothing may be written afterwards.
func (t *Terminal) Finish() {
	t.TTY.Close()
	<-t.done
}

// Resize changes the size of the terminal. The program that Start started gets SIGWINCH.
func (t *Terminal) Resize(width, height int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := pty.Setsize(t.pty, &pty.Winsize{Cols: uint16(width), Rows: uint16(height)}); err != nil {
		t.t.Fatal(err)
	}
	t.emulator.Resize(width, height)
}

// Screen returns the visible text without trailing spaces and empty lines.
func (t *Terminal) Screen() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for _, line := range strings.Split(t.emulator.String(), "\n") {
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n")
}

// Bytes returns all output so far.
func (t *Terminal) Bytes() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.raw.String()
}

// Want waits until the screen shows a text. One empty line before it and empty lines after it do not count.
func (t *Terminal) Want(screen string) {
	t.t.Helper()
	screen = strings.TrimRight(strings.TrimPrefix(screen, "\n"), "\n")
	if err := t.raw.Await(5*time.Second, func(string) bool { return t.Screen() == screen }); err != nil {
		t.t.Fatalf("the screen (-want +got):\n%s", cmp.Diff(strings.Split(screen, "\n"), strings.Split(t.Screen(), "\n")))
	}
}

// Title returns the title that the output has set.
func (t *Terminal) Title() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.title
}

// Bells returns how often the bell rang.
func (t *Terminal) Bells() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bells
}

// Start starts a program in the terminal, in a session of its own.
func (t *Terminal) Start(program *exec.Cmd) {
	t.t.Helper()
	program.Stdin, program.Stdout, program.Stderr = t.TTY, t.TTY, t.TTY
	program.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := program.Start(); err != nil {
		t.t.Fatal(err)
	}
	t.t.Cleanup(func() { program.Process.Kill() }) // in case the test fails
}

// Type presses keys.
func (t *Terminal) Type(keys string) {
	t.t.Helper()
	if _, err := t.pty.WriteString(keys); err != nil {
		t.t.Fatal(err)
	}
}

// WantMatch waits until the screen matches a pattern.
func (t *Terminal) WantMatch(timeout time.Duration, pattern *regexp.Regexp) {
	t.t.Helper()
	if err := t.raw.Await(timeout, func(string) bool { return pattern.MatchString(t.Screen()) }); err != nil {
		t.t.Fatalf("the screen does not match %s:\n%s", pattern, t.Screen())
	}
}
