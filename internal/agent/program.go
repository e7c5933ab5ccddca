package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"iglu.sh/builder/internal/buildid"
	"iglu.sh/builder/internal/lazyregexp"
)

// An agent sends its own program to a server of another platform, which has no program that runs in the
// containers of the agent's engine. On a connection of protocolProgram it sends a programHeader, which is one line of
// JSON, and then the program.

const (
	// programTimeout bounds the time to send the program.
	programTimeout = 2 * time.Minute
	// maxProgram bounds the size of the program, and maxLine that of the line before it, in bytes. Both are
	// many times what is needed.
	maxProgram = 1 << 30
	maxLine    = 1 << 10
)

// A programHeader describes the program that an agent sends.
type programHeader struct {
	Version string `json:"version"`
	BuildID string `json:"buildId"` // empty if it has none
	SHA256  string `json:"sha256"`  // in hexadecimal digits
	Size    int64  `json:"size"`    // in bytes
}

// headerOf returns the line with the header of a program.
func headerOf(program *os.File, version string) (line []byte, err error) {
	id, err := buildid.Of(program.Name())
	if err != nil {
		return nil, err
	}
	digest := sha256.New()
	size, err := io.Copy(digest, program)
	if err != nil {
		return nil, err
	}
	line, err = json.Marshal(programHeader{Version: version, BuildID: id, SHA256: hex.EncodeToString(digest.Sum(nil)), Size: size})
	return append(line, '\n'), err
}

// sendProgram sends the agent's program. A client that already has it closes the connection.
func (s *service) sendProgram(client net.Conn) {
	client.SetDeadline(time.Now().Add(programTimeout))
	file, err := os.Open(s.program)
	if err == nil {
		defer file.Close()
		var line []byte
		if line, err = headerOf(file, s.version); err == nil {
			client.Write(line)
			_, err = file.Seek(0, io.SeekStart)
		}
	}
	if err != nil {
		s.log.Warn("cannot read the program that jobs are to have", "err", err)
		return
	}
	io.Copy(client, file)
}

// A VersionError is the error of Keys.Program if the agent's version is not the server's.
type VersionError struct{ Agent string } // the agent's version; empty if the agent is too old to send its program

func (e *VersionError) Error() string {
	return "the agent's version is " + cmp.Or(e.Agent, "an earlier one")
}

var digestForm = lazyregexp.New(`^[0-9a-f]{64}$`)

// Program returns the file, in a folder, with the program of the agent at an address, and the build ID that the agent says
// the program has. The server does not look for it itself: the package debug/elf needs any amount of memory for some
// files, in which what it reads is compressed. Program fetches the program if the folder does not have it yet. The error is
// a VersionError if the agent has another version.
func (k *Keys) Program(ctx context.Context, address, version, folder string) (file, buildID string, err error) {
	conn, err := k.dialFor(ctx, address, protocolProgram)
	if err != nil {
		return "", "", err
	}
	defer conn.NetConn().Close()
	defer context.AfterFunc(ctx, func() { conn.NetConn().Close() })()
	if conn.ConnectionState().NegotiatedProtocol != protocolProgram {
		return "", "", &VersionError{}
	}
	conn.SetDeadline(time.Now().Add(programTimeout))
	line, err := readLine(conn)
	if err != nil {
		return "", "", fmt.Errorf("fetch the agent's program: %w", err)
	}
	var header programHeader
	if err := json.Unmarshal(line, &header); err != nil || !digestForm().MatchString(header.SHA256) || header.Size > maxProgram {
		return "", "", fmt.Errorf("fetch the agent's program: it is announced as %q", line)
	}
	if header.Version != version {
		return "", "", &VersionError{header.Version}
	}
	file = filepath.Join(folder, header.SHA256)
	if _, err := os.Stat(file); err == nil {
		return file, header.BuildID, nil
	}
	if err := keep(file, conn, header); err != nil {
		return "", "", fmt.Errorf("fetch the agent's program: %w", err)
	}
	return file, header.BuildID, nil
}

// readLine reads a line, and no byte after it.
func readLine(conn *tls.Conn) (line []byte, err error) {
	for b := make([]byte, 1); len(line) < maxLine; line = append(line, b[0]) {
		if _, err := io.ReadFull(conn, b); err != nil {
			return nil, err
		}
		if b[0] == '\n' {
			return line, nil
		}
	}
	return nil, errors.New("the line before it is too long")
}

// keep writes the program that from sends to a file. On failure there is no file.
func keep(file string, from io.Reader, header programHeader) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	part, err := os.CreateTemp(filepath.Dir(file), "part-")
	if err != nil {
		return err
	}
	defer os.Remove(part.Name())
	digest := sha256.New()
	_, err = io.CopyN(io.MultiWriter(part, digest), from, header.Size)
	if err = errors.Join(err, part.Close()); err != nil {
		return err
	}
	if hex.EncodeToString(digest.Sum(nil)) != header.SHA256 {
		return errors.New("it is not what was announced")
	}
	return os.Rename(part.Name(), file)
}
