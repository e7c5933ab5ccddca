package joblog_test

import (
	"context"
	"fmt"
	"io"
	"os"

	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

// One job writes a log, and any number of readers follow it. Here, one reader follows the lines until the log is
// complete, and another one reads the messages afterwards.
func Example() {
	folder, err := os.MkdirTemp("", "joblog-example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(folder)
	store, err := joblog.Open(folder, joblog.Keep{Jobs: 10}, 1<<20)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := writeLog(store); err != nil {
		fmt.Println(err)
		return
	}
	if err := readLog(context.Background(), store, os.Stdout); err != nil {
		fmt.Println(err)
	}
	// Output:
	// iglu: running nix build
	// building hello with ***
	// done
	//
	// 1: Start Building
	// 2: builder: iglu: running nix build
	// 3: stdout: building hello with ***
	// 4: event {"type":"phase","phase":"push"}
	// 5: stdout: done
	// 6: Build was successfull
}

// writeLog writes the log of a job. The output of a program arrives in chunks, which the log splits into lines.
func writeLog(store *joblog.Store) error {
	log, err := store.Create("job-1", redact.New("s3cret-api-key"))
	if err != nil {
		return err
	}
	defer log.Close()
	log.Respond(schemas.Accepted(), nil)
	log.Printf("iglu: running nix build")
	stdout := log.Stream(schemas.Stdout)
	for _, chunk := range []string{"building hel", "lo with s3cret-", "api-key\n"} {
		if _, err := io.WriteString(stdout, chunk); err != nil {
			return err
		}
	}
	if err := log.Event(schemas.PhaseEvent{Phase: schemas.PushRest}); err != nil {
		return err
	}
	io.WriteString(stdout, "done") // a last line needs no line end
	if err := stdout.Close(); err != nil {
		return err
	}
	log.Respond(schemas.Exited(0), nil)
	log.Complete()
	return nil
}

func readLog(ctx context.Context, store *joblog.Store, out io.Writer) error {
	reader, err := store.Reader("job-1")
	if err != nil {
		return err
	}
	defer reader.Close()
	if err := reader.Follow(ctx, 0, out); err != nil { // from line 0 on
		return err
	}
	fmt.Fprintln(out)
	return reader.FollowMessages(ctx, 1, func(messages []schemas.Message) error { // from message 1 on
		for _, m := range messages {
			switch {
			case m.Response != nil:
				fmt.Fprintf(out, "%d: %s\n", m.Seq, m.Response.Msg)
			case m.Event != nil:
				fmt.Fprintf(out, "%d: event %s\n", m.Seq, m.Event)
			default:
				fmt.Fprintf(out, "%d: %s: %s\n", m.Seq, m.Stream, m.Line)
			}
		}
		return nil
	})
}
