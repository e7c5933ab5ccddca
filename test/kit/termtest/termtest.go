// Package termtest is a terminal for tests: a real pseudo-terminal whose other end renders
// what is written to it, so that a test sees what a person would.
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
	// TTY is the end that programs write to.
	TTY *os.File

	pty     *os.File
	done    chan struct{} // closed when all is rendered
	drained chan struct{} // closed when the emulator answers nobody any more

	raw await.Log // all that was written

	mu       sync.Mutex
	emulator *vt.Emulator
	title    string
	bells    int
}

// Open opens a terminal of so many columns and lines for a test, which must not be parallel to
// others.
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
		io.Copy(io.Discard, term.emulator) // what it answers to those who ask it
	}()
	go func() {
		defer close(term.done)
		for buf := make([]byte, 4096); ; {
			n, err := ours.Read(buf)
			term.mu.Lock()
			term.emulator.Write(buf[:n])
			term.mu.Unlock()
			term.raw.Write(buf[:n]) // which those wait for who want to see it
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(term.close)
	return term
}

func (t *Terminal) close() {
	t.Finish()
	t.pty.Close()
	t.emulator.InputPipe().(io.Closer).Close()
	<-t.drained
	t.emulator.Close()
}

// Finish waits until all that was written is rendered. Nothing may be written any more.
func (t *Terminal) Finish() {
	t.TTY.Close()
	<-t.done
}

// Resize gives the terminal another size. A program of whose session it is gets SIGWINCH.
func (t *Terminal) Resize(width, height int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := pty.Setsize(t.pty, &pty.Winsize{Cols: uint16(width), Rows: uint16(height)}); err != nil {
		t.t.Fatal(err)
	}
	t.emulator.Resize(width, height)
}

// Screen returns what is to be seen, without the space at the ends of lines and below.
func (t *Terminal) Screen() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for _, line := range strings.Split(t.emulator.String(), "\n") {
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n")
}

// Bytes returns all that was written.
func (t *Terminal) Bytes() string {
	return t.raw.String()
}

// Want waits until the screen shows something. An empty line before it and those behind it do
// not count.
func (t *Terminal) Want(screen string) {
	t.t.Helper()
	screen = strings.TrimRight(strings.TrimPrefix(screen, "\n"), "\n")
	if err := t.raw.Await(5*time.Second, func(string) bool { return t.Screen() == screen }); err != nil {
		t.t.Fatalf("the screen (-want +got):\n%s", cmp.Diff(strings.Split(screen, "\n"), strings.Split(t.Screen(), "\n")))
	}
}

// Title returns the title that the terminal was given.
func (t *Terminal) Title() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.title
}

// Bells returns how often the terminal rang.
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
	t.t.Cleanup(func() { program.Process.Kill() }) // of a test that has failed
}

// Type presses keys.
func (t *Terminal) Type(keys string) {
	t.t.Helper()
	if _, err := t.pty.WriteString(keys); err != nil {
		t.t.Fatal(err)
	}
}

// WantMatch waits until the screen matches something.
func (t *Terminal) WantMatch(timeout time.Duration, pattern *regexp.Regexp) {
	t.t.Helper()
	if err := t.raw.Await(timeout, func(string) bool { return pattern.MatchString(t.Screen()) }); err != nil {
		t.t.Fatalf("the screen does not match %s:\n%s", pattern, t.Screen())
	}
}
