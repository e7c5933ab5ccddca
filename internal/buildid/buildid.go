// Package buildid tells one build of a program from another.
package buildid

import (
	"debug/elf"
	"encoding/hex"
	"fmt"
)

// Of returns the ID of the build that a program's file is, or "" if its linker has left none there.
// It is GNU's build ID, which Go's linker makes of the program's content. To read it takes far less
// than to read the file.
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

// noteHeader is what comes in a note before its content: three lengths, and the name "GNU": elf(5).
const noteHeader = 16
