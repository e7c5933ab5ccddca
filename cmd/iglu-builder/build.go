package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
)

func buildCommand() *cobra.Command {
	var address string
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
			ctx, stop := signal.NotifyContext(command.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			job, err := readJob(args[0], command.InOrStdin())
			if err != nil {
				return &exitError{exitClient, err}
			}
			code, err := submit(ctx, address, job, command.OutOrStdout(), command.ErrOrStderr())
			if ctx.Err() != nil {
				return &exitError{exitInterrupted, errors.New("the job was cancelled")}
			}
			if err != nil || code != 0 {
				return &exitError{code, err}
			}
			return nil
		},
	}
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
func submit(ctx context.Context, address string, job []byte, stdout, stderr io.Writer) (int, error) {
	conn, err := dial(ctx, address)
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
	for {
		_, data, err := conn.ReadMessage()
		if err != nil {
			return exitClient, fmt.Errorf("the builder ended the connection without a result: %w", err)
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
func dial(ctx context.Context, address string) (*websocket.Conn, error) {
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
	conn, response, err := websocket.DefaultDialer.DialContext(ctx, u.String(), nil)
	if errors.Is(err, websocket.ErrBadHandshake) && response != nil {
		return nil, fmt.Errorf("%s is not a builder: it answers %s", u, response.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("no builder answers at %s: %w\nhint: start one with 'iglu-builder serve'", u, err)
	}
	return conn, nil
}
