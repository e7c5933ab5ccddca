package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/scripts/internal/server"
)

// A builder is a server in a separate process.
type builder struct{ *server.Server }

func startBuilder(image string, flags ...string) (*builder, error) {
	return startBuilderOn("", image, flags...)
}

// startBuilderOn is startBuilder for the engine at a host in the format of DOCKER_HOST.
func startBuilderOn(host, image string, flags ...string) (*builder, error) {
	s, err := server.StartOn(host, append([]string{"--job-image", image, "--allowed-commands", "nix,sh", "--keep-logs", "0"}, flags...)...)
	return &builder{s}, err
}

// stop ends the builder and removes what it keeps. It ignores errors, because the measurement is already done.
func (b *builder) stop() {
	if err := b.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}

// race runs the contenders in turn, so that the machine is equally busy for all, and returns the median time of each. The
// first round does not count. Each run starts only after the cleanup of the previous one.
func (b *builder) race(ctx context.Context, rounds int, contenders []contender) (map[string]time.Duration, error) {
	times := make(map[string][]time.Duration)
	for round := range rounds + 1 {
		for _, c := range contenders {
			if c.before != nil {
				if err := c.before(); err != nil {
					return nil, fmt.Errorf("%s: %w", c.name, err)
				}
			}
			if err := b.settle(ctx); err != nil {
				return nil, err
			}
			begun := time.Now()
			if err := c.run(ctx); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			if round > 0 {
				times[c.name] = append(times[c.name], time.Since(begun))
			}
		}
		fmt.Fprintf(os.Stderr, "bench: round %d of %d\n", round, rounds)
	}
	medians := make(map[string]time.Duration)
	for name, list := range times {
		medians[name] = quantile(list, 0.5)
	}
	return medians, nil
}

// settleTime is the pause between two measurements.
const settleTime = 200 * time.Millisecond

// settle waits until the container of the builder's last job is removed.
func (b *builder) settle(ctx context.Context) error {
	for {
		time.Sleep(settleTime)
		left, err := exec.CommandContext(ctx, "docker", "ps", "--all", "--quiet", "--filter", "label=sh.iglu.builder.instance="+b.Instance).Output()
		if err != nil || len(left) == 0 {
			return err
		}
	}
}

// runs returns a contender's function that runs a job.
func (b *builder) runs(request schemas.Request) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := b.build(ctx, request, nil)
		return err
	}
}

// memory returns a figure of the server's memory from /proc, in MiB.
func (b *builder) memory(name string) (float64, error) { return memoryOf(b.PID(), name) }

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

// clockTick is the unit of processor times in /proc: 1/USER_HZ, see proc_pid_stat(5).
const clockTick = time.Second / 100

// processorTime returns the processor time of a process from /proc, including time in the kernel. Its child processes do
// not count.
func processorTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the program's name in parentheses. It can contain any character.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const user, kernel = 14 - 3, 15 - 3 // fields 14 and 15, counted from the third on
	if len(fields) <= kernel {
		return 0, fmt.Errorf("no processor time in %q", stat)
	}
	var inUser, inKernel int64
	if _, err := fmt.Sscan(fields[user]+" "+fields[kernel], &inUser, &inKernel); err != nil {
		return 0, fmt.Errorf("read the processor time in %q: %w", stat, err)
	}
	return time.Duration(inUser+inKernel) * clockTick, nil
}

// noop is a job that does nothing.
var noop = schemas.Request{Git: schemas.Git{NoClone: true}, BuildOptions: schemas.BuildOptions{Command: "nix --version"}}

// shell is a job that runs a shell script.
func shell(script string) schemas.Request {
	return schemas.Request{
		Git:          schemas.Git{NoClone: true},
		BuildOptions: schemas.BuildOptions{Command: "sh -c '" + script + "'"},
	}
}

// build runs a job and calls output, if it is not nil, with each message of output. To affect the measurement as little as
// possible, the client reads the server's frames itself, and parses only the last message.
func (b *builder) build(ctx context.Context, job schemas.Request, output func(message []byte)) (messages int, err error) {
	conn, err := b.send(ctx, job)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
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
		if opcode == websocket.TextMessage && !bytes.HasPrefix(message, []byte(`{"stdout":`)) {
			last = append(last[:0], message...)
		}
		if output != nil {
			output(message)
		}
		in.Discard(size)
	}
}

// send sends a job. The caller closes the connection.
func (b *builder) send(ctx context.Context, job schemas.Request) (*websocket.Conn, error) {
	conn, _, err := websocket.DefaultDialer.DialContext(ctx, "ws://"+b.Address+schemas.BuildPath, nil)
	if err != nil {
		return nil, err
	}
	if err := conn.WriteJSON(job); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// stall sends a job, and reads no further than the line with the job's id, which it returns. The
// caller closes the connection.
func (b *builder) stall(ctx context.Context, job schemas.Request) (conn *websocket.Conn, id string, err error) {
	conn, err = b.send(ctx, job)
	if err != nil {
		return nil, "", err
	}
	for {
		_, message, err := conn.ReadMessage()
		if err != nil {
			conn.Close()
			return nil, "", fmt.Errorf("no line with the job's id: %w", err)
		}
		if id, ok := strings.CutPrefix(line(message), "iglu: job "); ok {
			return conn, id, nil
		}
	}
}

// readHeader reads the header of an unfragmented frame: RFC 6455, section 5.2.
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
