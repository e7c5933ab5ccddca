// Outputs finds the outputs of a derivation and of all its dependencies in the Nix store, as a job that
// pushes does. It prints the number of paths, the time in seconds, and its peak memory in MiB.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"syscall"
	"time"

	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/push"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "outputs:", err)
		os.Exit(1)
	}
}

// conn is a connection made of two pipes, one for each direction.
type conn struct{ from, to *os.File }

func (c conn) Read(b []byte) (int, error)  { return c.from.Read(b) }
func (c conn) Write(b []byte) (int, error) { return c.to.Write(b) }

func run(drv string) error {
	debug.SetMemoryLimit(push.Options{}.Memory()) // as in a job
	from, stdout, err := os.Pipe()
	if err != nil {
		return err
	}
	stdin, to, err := os.Pipe()
	if err != nil {
		return err
	}
	daemon := exec.Command("nix-daemon", "--stdio")
	daemon.Stdin, daemon.Stdout, daemon.Stderr = stdin, stdout, os.Stderr
	if err := daemon.Start(); err != nil {
		return err
	}
	store, err := nixstore.Open(conn{from, to})
	if err != nil {
		return err
	}
	begun := time.Now()
	outputs, err := store.Outputs([]string{drv})
	if err != nil {
		return err
	}
	took := time.Since(begun)
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return err
	}
	_, err = fmt.Println(len(outputs.Paths), took.Seconds(), usage.Maxrss>>10)
	to.Close()
	return err
}
