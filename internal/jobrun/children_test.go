package jobrun

import (
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/test/kit/await"
)

// A program that makes its output non-blocking, as ssh does, does not change that of this program, which would then
// lose what it cannot write at once.
func TestProgramMakesOutputNonBlocking(t *testing.T) {
	const variable = "IGLU_TEST_MAKES_OUTPUT_NONBLOCKING"
	if os.Getenv(variable) != "" {
		if unix.SetNonblock(unix.Stdout, true) != nil || unix.SetNonblock(unix.Stderr, true) != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	c := newChildren(func() {})
	defer c.close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	in, out := os.NewFile(uintptr(pipe[1]), "in"), os.NewFile(uintptr(pipe[0]), "out")
	defer in.Close()
	defer out.Close()
	exited, err := c.start(process{program: os.Args[0], argv: []string{os.Args[0], "-test.run=^" + t.Name() + "$"}, dir: ".",
		environ: append(os.Environ(), variable+"=1"), files: []*os.File{null, in, in}})
	if err != nil {
		t.Fatal(err)
	}
	if code := <-exited; code != 0 {
		t.Fatalf("the program ended with %d", code)
	}
	if flags, err := unix.FcntlInt(uintptr(pipe[1]), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("this program's output has the flags %#x, %v", flags, err)
	}
}

// The request to end the job is not lost if many processes end while a program is being started.
func TestTerminateWhileManyEnd(t *testing.T) {
	stopped := make(chan struct{})
	c := newChildren(func() { close(stopped) })
	defer c.close()
	seen := make(chan os.Signal, 1)
	signal.Notify(seen, unix.SIGCHLD, unix.SIGTERM)
	defer signal.Stop(seen)
	send := func(s unix.Signal) {
		if err := unix.Kill(os.Getpid(), s); err != nil {
			t.Fatal(err)
		}
		for got := await.Receive(t, seen, "the signal arrives"); got != s; {
			got = await.Receive(t, seen, "the signal arrives")
		}
	}
	c.mu.Lock() // as start does
	for range 100 {
		send(unix.SIGCHLD)
	}
	send(unix.SIGTERM)
	c.mu.Unlock()
	await.Receive(t, stopped, "the job is asked to end")
}

// What a program prints is there when the program ends. It can leave a process behind that keeps the output open, for as
// long as that runs.
func TestOutputOfProgramThatLeavesAProcess(t *testing.T) {
	c := newChildren(func() {})
	defer c.close()
	r := runner{children: c, user: rootUser(), environ: os.Environ()}
	ended := filepath.Join(t.TempDir(), "ended")
	printed, code := r.output("sh", "-c", `(sleep 10; : > "$0") & echo $!`, ended)
	pid, err := strconv.Atoi(printed)
	if err != nil || code != 0 {
		t.Fatalf("it printed %q and ended with %d", printed, code)
	}
	defer unix.Kill(pid, unix.SIGKILL)
	if _, err := os.Stat(ended); err == nil {
		t.Error("this was known only when the process that was left behind had ended")
	}
}

// A command with a slash is a program of the folder in which it runs, as in a shell. One without a slash never is.
func TestProgramInFolder(t *testing.T) {
	c := newChildren(func() {})
	defer c.close()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "tools"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"here": 0o755, "tools/there": 0o755, "text": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n[ -x tools/there ]\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	r := runner{children: c, user: rootUser(), environ: os.Environ()}
	for _, test := range []struct {
		name   string
		code   int
		reason string
	}{
		{"./here", 0, ""},
		{"tools/there", 0, ""},
		{filepath.Join(dir, "here"), 0, ""},
		{"./gone", exitNotFound, "there is no " + dir + "/gone"},
		{"./text", exitCannotRun, "cannot run ./text: exec: \"" + dir + "/text\": permission denied"},
		{"here", exitNotFound, "here is not in the job image; its PATH is " + os.Getenv("PATH")},
	} {
		why.set("", "")
		if code := r.run([]string{test.name}, dir, os.Stdout, os.Stderr); code != test.code || why.reason != test.reason {
			t.Errorf("%s: exit code %d, %q", test.name, code, why.reason)
		}
	}
}
