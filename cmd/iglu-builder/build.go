package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"github.com/spf13/cobra"

	"iglu.sh/builder/schemas"
)

const (
	// exitClient is the exit code when the client fails and not the build; docker
	// run takes the same.
	exitClient = 125
	// exitInterrupted is the exit code after Ctrl-C, as shells have it.
	exitInterrupted = 130

	// dialTimeout bounds the wait for a builder's answer to a connection,
	// pingInterval is how often it is asked for a sign of life, and silenceTimeout
	// after how long without one it counts as gone.
	dialTimeout    = 30 * time.Second
	pingInterval   = 10 * time.Second
	silenceTimeout = 30 * time.Second
)

func buildCommand() *cobra.Command {
	var address, tokenFile string
	command := &cobra.Command{
		Use:   "build [--url URL] JOB.json",
		Short: "Send a job to a builder and show its log",
		Long: `Build sends the job in a file ("-" is standard input) to a builder, prints each line
of its log, and exits with the build's exit code. Ctrl-C cancels the job.

It exits with 125, and a sentence on standard error, where there is no such code.`,
		Example: "  iglu-builder build examples/hello/job.json\n" +
			"  iglu-builder build --url ws://builder.example.com:3000 - < job.json",
		Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			job, err := readJob(args[0], command.InOrStdin())
			if err != nil {
				return &exitError{exitClient, err}
			}
			token, err := readToken(cmp.Or(tokenFile, os.Getenv(envName("token-file"))))
			if err != nil {
				return &exitError{exitClient, err}
			}
			ctx, stop := signal.NotifyContext(command.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			code, err := submit(ctx, address, token, job, command.OutOrStdout(), command.ErrOrStderr())
			if ctx.Err() != nil {
				return &exitError{exitInterrupted, errors.New("the job was cancelled")}
			}
			if err != nil || code != 0 {
				return &exitError{code, err}
			}
			return nil
		},
	}
	command.Flags().StringVar(&tokenFile, "token-file", "", "`file` with the builder's token (default what IGLU_TOKEN_FILE names)")
	command.Flags().StringVar(&address, "url", "ws://127.0.0.1:3000/api/v1/build", "`URL` of the builder")
	return command
}

func readJob(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name)
}

// submit sends a job, prints its log, and returns the build's exit code, or
// exitClient with the reason.
func submit(ctx context.Context, address, token string, job []byte, out, stderr io.Writer) (code int, err error) {
	stdout := bufio.NewWriterSize(out, 64<<10)
	defer func() {
		if flushErr := stdout.Flush(); err == nil && flushErr != nil {
			code, err = exitClient, fmt.Errorf("print the log: %w", flushErr)
		}
	}()
	conn, err := dial(ctx, address, token, stdout)
	if err != nil {
		return exitClient, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() {
		goodbye := websocket.FormatCloseMessage(websocket.CloseGoingAway, "")
		conn.WriteControl(websocket.CloseMessage, goodbye, time.Now().Add(time.Second))
		conn.Close()
	})()
	if err := conn.WriteMessage(websocket.TextMessage, job); err != nil {
		return exitClient, fmt.Errorf("send the job: %w", err)
	}
	defer ping(conn)()
	for data := []byte(nil); ; {
		conn.SetReadDeadline(time.Now().Add(silenceTimeout))
		if data, err = readMessage(conn, data[:0]); err != nil {
			return exitClient, fmt.Errorf("the builder ended the connection without a result: %w", err)
		}
		if line, ok := schemas.CutOutput(data); ok { // quicker, for long logs
			stdout.Write(line)
			stdout.WriteByte('\n')
			continue
		}
		var message schemas.Response
		if err := json.Unmarshal(data, &message); err != nil {
			return exitClient, fmt.Errorf("the builder sent what is not a message of its protocol: %w", err)
		}
		switch {
		case message.Stdout != nil:
			if _, err := fmt.Fprintln(stdout, *message.Stdout); err != nil {
				return exitClient, fmt.Errorf("print the log: %w", err)
			}
		case message.Error != "":
			return failed(message)
		case message.JobStatus == schemas.Success:
			fmt.Fprintln(stderr, message.Msg)
			return 0, nil
		default:
			fmt.Fprintln(stderr, message.Msg)
		}
	}
}

// readMessage appends the next message to buf.
func readMessage(conn *websocket.Conn, buf []byte) ([]byte, error) {
	_, r, err := conn.NextReader()
	if err != nil {
		return buf, err
	}
	message := bytes.NewBuffer(buf)
	_, err = message.ReadFrom(r)
	return message.Bytes(), err
}

// ping asks the builder for signs of life until the function that it returns is called.
// Its answers, as everything that it sends, put off the end of the connection.
func ping(conn *websocket.Conn) (stop func()) {
	conn.SetPongHandler(func(string) error { return conn.SetReadDeadline(time.Now().Add(silenceTimeout)) })
	ticker := time.NewTicker(pingInterval)
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ticker.C:
				conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(pingInterval))
			case <-ended:
				return
			}
		}
	}()
	return func() {
		ticker.Stop()
		close(ended)
		<-done
	}
}

// flushing is a connection that prints what is buffered before it waits for more.
type flushing struct {
	net.Conn
	stdout *bufio.Writer
}

func (f flushing) Read(p []byte) (int, error) {
	if err := f.stdout.Flush(); err != nil {
		return 0, fmt.Errorf("print the log: %w", err)
	}
	return f.Conn.Read(p)
}

// failed returns what a message with an error means for the client.
func failed(message schemas.Response) (int, error) {
	err := errors.New(message.Error)
	if message.Msg != "" {
		err = fmt.Errorf("%s %s", message.Error, message.Msg)
	}
	if message.BuildExitCode != nil {
		return *message.BuildExitCode, err
	}
	return exitClient, err
}

// buildPath is where a builder takes jobs.
const buildPath = "/api/v1/build"

// dial connects to a builder. A URL without a path means the builder's own, and the
// schemes http and https mean ws and wss.
//
// Whatever stdout holds is printed before the client waits for more, and not before: so
// a line is seen at once, and a burst of them costs few writes.
func dial(ctx context.Context, address, token string, stdout *bufio.Writer) (*websocket.Conn, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("--url: %w", err)
	}
	switch u.Scheme {
	case "http":
		u.Scheme = "ws"
	case "https":
		u.Scheme = "wss"
	case "ws", "wss":
	default:
		return nil, fmt.Errorf("--url: %q is not a URL such as ws://127.0.0.1:3000", address)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = buildPath
	}
	dialer := websocket.Dialer{
		Proxy:            http.ProxyFromEnvironment,
		HandshakeTimeout: dialTimeout,
		ReadBufferSize:   64 << 10,
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			return flushing{conn, stdout}, err
		},
	}
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	conn, response, err := dialer.DialContext(ctx, u.String(), header)
	if response != nil && response.StatusCode == http.StatusUnauthorized {
		return nil, fmt.Errorf("%s wants another token\nhint: name the file that holds it with --token-file", u)
	}
	if errors.Is(err, websocket.ErrBadHandshake) && response != nil {
		return nil, fmt.Errorf("%s is not a builder: it answers %s", u, response.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("no builder answers at %s: %w\nhint: start one with 'iglu-builder serve'", u, err)
	}
	return conn, nil
}
