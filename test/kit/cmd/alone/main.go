// Alone runs a command while it holds a lock on a file. It exits with 99 if another process holds the lock:
//
//	alone FILE COMMAND [ARGUMENT...]
//
// The kernel releases the lock when the command and its children have ended, even if they were killed.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// exitTaken is the exit code if another process holds the lock.
const exitTaken = 99

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "alone:", err)
		os.Exit(exitTaken)
	}
}

func run(file string, command []string) error {
	fd, err := syscall.Open(file, syscall.O_RDWR|syscall.O_CREAT, 0o666)
	if err != nil {
		return err
	}
	if err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	program, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	return syscall.Exec(program, command, os.Environ()) // the file stays open
}
