package server

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writeProgram writes a program that consists of a header and one segment, and returns the file's name.
func writeProgram(t *testing.T, segment elf.ProgType) string {
	t.Helper()
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Phentsize: uint16(binary.Size(elf.Prog64{})), Phnum: 1,
	}
	header.Ehsize = uint16(binary.Size(header))
	header.Phoff = uint64(header.Ehsize)
	var content bytes.Buffer
	binary.Write(&content, binary.LittleEndian, header)
	binary.Write(&content, binary.LittleEndian, elf.Prog64{Type: uint32(segment)})
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, content.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCheckStatic(t *testing.T) {
	if err := checkStatic(writeProgram(t, elf.PT_LOAD)); err != nil {
		t.Errorf("a static program: %v", err)
	}
	if err := checkStatic(writeProgram(t, elf.PT_INTERP)); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("a program with a dynamic linker: %v", err)
	}
	if err := checkStatic("program_test.go"); err == nil {
		t.Error("what is no program passes")
	}
}
