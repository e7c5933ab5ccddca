package agent

import (
	"bytes"
	"crypto/tls"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// programAgent starts an agent with a program, which consists of a header and a text.
func programAgent(t *testing.T, text []byte) (in installation, address string, program []byte) {
	t.Helper()
	in = install(t)
	file := filepath.Join(t.TempDir(), "iglu-builder")
	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	program, err := binary.Append(nil, binary.LittleEndian, elf.Header64{Ident: ident, Version: uint32(elf.EV_CURRENT)})
	if err != nil {
		t.Fatal(err)
	}
	program = append(program, text...)
	if err := os.WriteFile(file, program, 0o755); err != nil {
		t.Fatal(err)
	}
	return in, startAgent(t, Options{Keys: in.agent, Socket: "/nonexistent", Program: file, Version: "1.2.3"}).address, program
}

// TestProgram fetches an agent's program, and asks for it again when the folder has it.
func TestProgram(t *testing.T) {
	in, address, program := programAgent(t, bytes.Repeat([]byte("a program\n"), 100_000))
	folder := filepath.Join(t.TempDir(), "programs")
	file, _, err := in.server.Program(t.Context(), address, "1.2.3", folder)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, program) {
		t.Errorf("%d bytes have come (%v), want %d", len(got), err, len(program))
	}
	if err := os.WriteFile(file, []byte("it is not fetched again"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, _, err := in.server.Program(t.Context(), address, "1.2.3", folder); again != file || err != nil {
		t.Errorf("the second time it is %q, %v", again, err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "it is not fetched again" {
		t.Errorf("it was fetched again: %d bytes, %v", len(got), err)
	}
	var other *VersionError
	if _, _, err := in.server.Program(t.Context(), address, "1.2.4", folder); !errors.As(err, &other) || other.Agent != "1.2.3" {
		t.Errorf("for another version: %v", err)
	}
	if files, err := os.ReadDir(folder); err != nil || len(files) != 1 {
		t.Errorf("%d files are left, %v", len(files), err)
	}
}

// TestProgramOfStranger asks for an agent's program without the server's key.
func TestProgramOfStranger(t *testing.T) {
	_, address, _ := programAgent(t, []byte("a program"))
	stranger := install(t).server
	config := stranger.dialing()
	config.NextProtos, config.VerifyConnection = []string{protocolProgram}, nil
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		return // refused
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err == nil || len(got) > 0 {
		t.Errorf("it gets %q, %v", got, err)
	}
}

// TestProgramIsWhole checks that no file is kept of an incomplete or wrong program.
func TestProgramIsWhole(t *testing.T) {
	header := programHeader{Version: "1.2.3", SHA256: strings.Repeat("0", 64), Size: 9}
	for _, text := range []string{"a prog", "a program", "another program"} {
		folder := t.TempDir()
		if err := keep(filepath.Join(folder, header.SHA256), strings.NewReader(text), header); err == nil {
			t.Errorf("%q is kept", text)
		}
		if files, err := os.ReadDir(folder); err != nil || len(files) != 0 {
			t.Errorf("of %q, %d files are left, %v", text, len(files), err)
		}
	}
}

// TestProgramAmongStrangers has more clients than there may be handshakes connect while the server fetches the agent's
// program, which goes on.
func TestProgramAmongStrangers(t *testing.T) {
	in, address, program := programAgent(t, bytes.Repeat([]byte("a program\n"), 2<<20)) // more than the buffers of a connection
	conn, err := in.server.dialFor(t.Context(), address, protocolProgram)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(timeout))
	line, err := readLine(conn)
	if err != nil {
		t.Fatal(err)
	}
	var strangers []net.Conn
	for range maxRecent + 1 {
		stranger, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer stranger.Close()
		stranger.SetDeadline(time.Now().Add(timeout))
		strangers = append(strangers, stranger)
	}
	if _, err := strangers[0].Read(make([]byte, 1)); err == nil || isTimeout(err) { // the last was accepted
		t.Fatalf("the first stranger: %v", err)
	}
	if n, err := io.Copy(io.Discard, conn); n != int64(len(program)) || err != nil {
		t.Errorf("after the line %q, %d bytes have come (%v), want %d", line, n, err, len(program))
	}
}
