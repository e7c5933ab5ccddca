// Alone executes a command while it has the lock of a file, or exits with 99 if another process has it:
//
//	alone FILE COMMAND [ARGUMENT...]
//
// The kernel takes the lock away when the command and its children have ended, however they did.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// exitTaken is the exit code where another process has the lock.
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
	return syscall.Exec(program, command, os.Environ()) // which keeps the file open
}
