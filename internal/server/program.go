package server

import (
	"debug/elf"
	"errors"
	"fmt"
	"slices"
)

// checkStatic returns an error if a program's file needs a dynamic linker. That is part of the C library, which the
// images of jobs do not have where other systems have it.
func checkStatic(file string) error {
	program, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("read the builder's own program: %w", err)
	}
	defer program.Close()
	if slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return errors.New("this build of the program needs the C library and cannot run in the containers of jobs\n" +
			"hint: build it with CGO_ENABLED=0, as 'make build' does")
	}
	return nil
}
