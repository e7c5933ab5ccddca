package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/schemas"
)

// A server is a builder in a process of its own.
type server struct {
	process  *exec.Cmd
	address  string
	instance string
	stateDir string
}

var listening = regexp.MustCompile(`msg=listening addr=(\S+)`)

func startServer(image string) (*server, error) {
	stateDir, err := os.MkdirTemp("", "iglu-bench-")
	if err != nil {
		return nil, err
	}
	s := &server{instance: "bench-" + strings.ToLower(rand.Text()[:8]), stateDir: stateDir}
	s.process = exec.Command("bin/iglu-builder", "serve", "--listen", "127.0.0.1:0", "--job-image", image,
		"--instance", s.instance, "--allowed-commands", "nix,sh", "--state-dir", stateDir, "--keep-logs", "0")
	stderr, err := s.process.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := s.process.Start(); err != nil {
		return nil, err
	}
	log := bufio.NewScanner(stderr)
	for log.Scan() {
		if m := listening.FindStringSubmatch(log.Text()); m != nil {
			s.address = m[1]
			go io.Copy(io.Discard, stderr)
			return s, nil
		}
	}
	return nil, errors.New("the server does not start")
}

// stop ends the server and removes what it keeps.
func (s *server) stop() {
	s.process.Process.Signal(syscall.SIGTERM)
	s.process.Wait()
	os.RemoveAll(s.stateDir)
	for _, kind := range []string{"volume", "network"} {
		names, _ := exec.Command("docker", kind, "ls", "--quiet", "--filter", "label=sh.iglu.builder.instance="+s.instance).Output()
		for _, name := range strings.Fields(string(names)) {
			exec.Command("docker", kind, "rm", name).Run()
		}
	}
}

// memory returns a figure of the server's memory from /proc, in MiB.
func (s *server) memory(name string) (float64, error) {
	return memoryOf(s.process.Process.Pid, name)
}

// memoryOf returns a figure of a process's memory from /proc, in MiB.
func memoryOf(pid int, name string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kib float64
		if n, _ := fmt.Sscanf(line, name+": %f kB", &kib); n == 1 {
			return kib / 1024, nil
		}
	}
	return 0, fmt.Errorf("no %s in the process's status", name)
}

// shell is a job that runs a shell script.
func shell(script string) schemas.Request {
	return schemas.Request{
		Git:          schemas.Git{NoClone: true},
		BuildOptions: schemas.BuildOptions{Command: "sh -c '" + script + "'"},
	}
}

// build runs a job and gives each message of its output to output, if there is one. The
// client does as little as it can, so that it is not what is measured: it reads the
// server's frames itself, and looks only at the last message.
func (s *server) build(ctx context.Context, job schemas.Request, output func(message []byte)) (messages int, err error) {
	conn, _, err := websocket.DefaultDialer.DialContext(ctx, "ws://"+s.address+"/api/v1/build", nil)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.WriteJSON(job); err != nil {
		return 0, err
	}
	in := bufio.NewReaderSize(conn.NetConn(), 256<<10)
	var last []byte
	for {
		opcode, size, err := readHeader(in)
		if err != nil {
			return messages, err
		}
		switch opcode {
		case websocket.TextMessage:
			messages++
		case websocket.PingMessage:
			conn.WriteControl(websocket.PongMessage, nil, time.Now().Add(time.Second))
		case websocket.CloseMessage:
			if !bytes.Contains(last, []byte(`"jobStatus":"success"`)) {
				return messages, fmt.Errorf("the job did not succeed: %s", last)
			}
			return messages, nil
		}
		if size > in.Size() {
			return messages, fmt.Errorf("a message of %d bytes", size)
		}
		message, err := in.Peek(size)
		if err != nil {
			return messages, err
		}
		if opcode == websocket.TextMessage {
			last = append(last[:0], message...)
		}
		if output != nil {
			output(message)
		}
		in.Discard(size)
	}
}

// readHeader reads the header of a frame that is a whole message: RFC 6455, section 5.2.
func readHeader(in *bufio.Reader) (opcode byte, size int, err error) {
	var header [10]byte
	if _, err := io.ReadFull(in, header[:2]); err != nil {
		return 0, 0, err
	}
	switch size = int(header[1]); size {
	case 126:
		_, err = io.ReadFull(in, header[2:4])
		size = int(binary.BigEndian.Uint16(header[2:]))
	case 127:
		_, err = io.ReadFull(in, header[2:10])
		size = int(binary.BigEndian.Uint64(header[2:]))
	}
	return header[0] & 0xf, size, err
}

// line returns the line in a message of output, or "".
func line(message []byte) string {
	var response schemas.Response
	if json.Unmarshal(message, &response) != nil || response.Stdout == nil {
		return ""
	}
	return *response.Stdout
}
