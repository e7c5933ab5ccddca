// Package buildclient is the command-line client of a builder. It sends a job, prints the job's log, and
// returns the build's exit code.
//
// The output depends on its target. On a terminal it is the log with a status line below it, and a summary
// at the end (screen.go). In a file or a pipe it is the log's lines as they are (plain.go). With the
// option JSON it is the builder's messages (json.go).
package buildclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/term"

	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/schemas"
)

// ExitClient is the exit code if the client fails, not the build. It is that of docker run.
const ExitClient = 125

// progressInterval is how often a client without a terminal prints the job's progress.
const progressInterval = 30 * time.Second

// An Interrupted is the error of a command that has ended because its context has. It says in a sentence what that
// means for the job.
type Interrupted string

func (i Interrupted) Error() string { return string(i) }

const (
	notSent     Interrupted = "interrupted before the job was sent"
	cancelled   Interrupted = "the job was cancelled"
	notAnswered Interrupted = "interrupted before the builder answered; the job may have been started: 'iglu-builder jobs' lists the builder's jobs"
)

// Options are the job to send, the builder, and how to show the job.
type Options struct {
	URL   *url.URL // of the builder, as ParseAddress returns it
	Token string   // the builder's; empty: none
	Job   []byte   // the message to send; a request for colours is added if they are shown
	// FromFlags is true if flags describe the job: sentences about it then have their names.
	FromFlags bool
	// Wait sends the job again until the builder has a free slot for it.
	Wait bool

	Stdout, Stderr io.Writer
	// JSON prints the builder's messages as they are.
	JSON bool
	// NoColor removes all colours on a terminal, also those of the log.
	NoColor bool

	now      func() time.Time // nil: time.Now
	replay   bool             // the messages may be old: use their times
	interval time.Duration    // 0: progressInterval
}

// at returns the time of a message.
func (o Options) at(m schemas.Message) time.Time {
	if o.replay && !m.Time.IsZero() {
		return m.Time
	}
	return o.now()
}

// Submit sends a job and shows it until the job or ctx has ended. It returns the build's exit code, or
// ExitClient if there is none. Its error describes a failure that has not been shown yet. It is an Interrupted if ctx
// has ended before the job.
func Submit(ctx context.Context, o Options) (code int, err error) {
	if o.showsColors() {
		o.Job = withColors(o.Job)
	}
	err = o.untilTaken(ctx, func() (err error) {
		code, err = submitOnce(ctx, o)
		return err
	})
	return code, err
}

// submitOnce sends a job and shows it. Its error is errBusy if the builder has no free slot.
func submitOnce(ctx context.Context, o Options) (code int, err error) {
	v := newView(o)
	defer endView(v, &code, &err)
	var shown error // that of the last flush
	conn, err := dial(ctx, o.URL, o.Token, func() error {
		shown = v.flush()
		return shown
	})
	if err != nil {
		return ExitClient, orInterrupted(ctx, err, notSent)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() {
		goodbye := websocket.FormatCloseMessage(websocket.CloseGoingAway, "")
		conn.WriteControl(websocket.CloseMessage, goodbye, time.Now().Add(time.Second))
		conn.Close()
	})()
	if err := conn.WriteMessage(websocket.TextMessage, o.Job); err != nil {
		return ExitClient, orInterrupted(ctx, fmt.Errorf("send the job: %w", err), notSent)
	}
	defer ping(conn)()
	var data []byte
	return show(o, func() ([]byte, error) {
		data, err = readMessage(conn, data[:0])
		switch {
		case shown != nil:
			return nil, orInterrupted(ctx, shown, cancelled)
		case websocket.IsCloseError(err, websocket.CloseMessageTooBig):
			return nil, errTooLarge
		case errors.Is(err, websocket.ErrReadLimit):
			return nil, errTooLong
		case err != nil:
			return nil, orInterrupted(ctx, fmt.Errorf("the builder ended the connection without a result: %w", err), cancelled)
		}
		return data, nil
	}, v)
}

// orInterrupted returns what the end of ctx means for the job or, if ctx has not ended, err.
func orInterrupted(ctx context.Context, err error, what Interrupted) error {
	if ctx.Err() != nil {
		return what
	}
	return err
}

var errTooLarge = errors.New("the job is larger than the builder accepts\nhint: its setting IGLU_MAX_REQUEST_BYTES is the limit")

// endView ends a view. If there is no error yet, it returns that of the view.
func endView(v view, code *int, err *error) {
	if endErr := v.end(); *err == nil && endErr != nil {
		*code, *err = ExitClient, endErr
	}
}

// show shows a job's messages up to the last, in a view of o. next returns the next message, which is valid until the next
// call.
func show(o Options, next func() ([]byte, error), v view) (code int, err error) {
	for {
		data, err := next()
		if err != nil {
			return ExitClient, err
		}
		if line, ok := schemas.CutOutput(data); ok { // faster, for long logs
			v.line(data, line)
			continue
		}
		if isDerivationLine(data) {
			v.message(data, schemas.Message{})
			continue
		}
		m, err := schemas.ParseMessage(data)
		switch {
		case err != nil:
			return ExitClient, fmt.Errorf("the builder sent an invalid message: %w", err)
		case m.Line != nil:
			v.line(data, m.Line)
			continue
		}
		if m.Response != nil {
			o.addFlagNames(m.Response)
		}
		v.message(data, m)
		if m.Response == nil {
			continue
		}
		if code, why, last := resultOf(m.Response); last {
			if code != 0 && v.hasShown(m) {
				why = nil
			}
			return code, why
		}
	}
}

// errBusy is the error if the builder has no free slot.
var errBusy = errors.New(schemas.Busy().Error)

// resultOf returns the exit code and the reason of a failure, if the message is the last of a job.
func resultOf(r *schemas.Response) (code int, why error, last bool) {
	switch {
	case r.Error != "":
		if code = ExitClient; r.BuildExitCode != nil {
			code = *r.BuildExitCode
		}
		if *r == schemas.Busy() {
			return code, errBusy, true
		}
		return code, errors.New(sentences(r)), true
	case r.JobStatus == schemas.Success:
		return 0, nil, true
	}
	return 0, nil, false
}

// addFlagNames replaces the names of properties in a message by those of the flags that describe the job.
func (o Options) addFlagNames(r *schemas.Response) {
	if o.FromFlags {
		r.Msg = withFlagNames(r.Msg)
	}
}

// sentences returns the texts of a message, safe to print on a terminal.
func sentences(r *schemas.Response) string {
	text := r.Error
	if r.Error != "" && r.Msg != "" {
		text = strings.TrimSuffix(r.Error, ".") + ". "
	}
	return termtext.Visible(text + r.Msg)
}

// isDerivationLine reports whether a message is a line of a derivation's own log. The client does not show
// them, because the output has them already, and there may be as many of them.
func isDerivationLine(data []byte) bool {
	return bytes.HasPrefix(data, []byte(`{"jobStatus":"running"`)) &&
		bytes.Contains(data[:min(len(data), longestStamp)], []byte(`,"event":{"type":"line",`))
}

// longestStamp is more than the length of the part of a message before its event, in bytes.
const longestStamp = 200

// A view shows a job. Its methods are for one goroutine.
type view interface {
	// line shows a line of output; data is its message. Both are overwritten after the call.
	line(data, text []byte)
	// message shows any other message. For a line of a derivation's own log, m is empty.
	message(data []byte, m schemas.Message)
	// hasShown reports whether the view has shown the reason of a failure, which the last message has.
	hasShown(last schemas.Message) bool
	// flush is called before the client waits for more messages. It shows everything so far.
	flush() error
	// end shows the rest after the last message, and releases the view's resources. It returns the error
	// if something could not be shown.
	end() error
}

func newView(o Options) view {
	if o.now == nil {
		o.now = time.Now
	}
	if o.JSON {
		return newJSONView(o.Stdout)
	}
	if o.hasScreen() {
		return newScreen(o.Stdout.(*os.File), o)
	}
	return newPlain(o)
}

// isTerminal reports whether an output is a terminal.
func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// printed adds to an error that it is one of the output. Of nil it returns nil.
func printed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("print the log: %w", err)
}
