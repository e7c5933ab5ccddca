// Package buildid reads the build ID of a program, which identifies a build of it.
package buildid

import (
	"debug/elf"
	"encoding/hex"
	"fmt"
)

// Of returns the build ID of a program's file, or "" if the file has none. It is GNU's build ID, which Go's
// linker computes from the program's content. Reading it is much faster than reading the whole file.
func Of(file string) (string, error) {
	program, err := elf.Open(file)
	if err != nil {
		return "", fmt.Errorf("read the build ID of a program: %w", err)
	}
	defer program.Close()
	section := program.Section(".note.gnu.build-id")
	if section == nil {
		return "", nil
	}
	note, err := section.Data()
	if err != nil {
		return "", fmt.Errorf("read the build ID of a program: %w", err)
	}
	return hex.EncodeToString(note[min(noteHeader, len(note)):]), nil
}

// noteHeader is the length of a note's header in bytes: three numbers, and the name "GNU" (elf(5)).
const noteHeader = 16
