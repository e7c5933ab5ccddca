// Package buildclient is the client of a builder: it sends a job, shows what comes back, and
// knows the build's exit code.
//
// What it shows depends on where to: a terminal gets the log with a line below that says how
// far the job is (screen.go), and a summary at the end; a file or a pipe gets the log's lines
// as they are (plain.go), or the messages (json.go).
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

// ExitClient is the exit code when the client fails and not the build; docker run takes the
// same.
const ExitClient = 125

// progressInterval is how often a client that has no terminal says how far the job is.
const progressInterval = 30 * time.Second

// Options say what to send where, and how to show what comes back.
type Options struct {
	URL   *url.URL // of the builder, as ParseAddress returns it
	Token string   // that it wants; empty: none
	Job   []byte   // as it is sent, but that it asks for colours where they are shown
	// Wait has a job that the builder has no place for sent again until there is one.
	Wait bool

	Stdout, Stderr io.Writer
	// JSON has the messages printed as they are.
	JSON bool
	// NoColor keeps colours off a terminal, those of the log included.
	NoColor bool
	// ProgressInterval is how often a client without a terminal says how far the job is; 0
	// is every 30 s.
	ProgressInterval time.Duration

	now    func() time.Time // nil: time.Now
	replay bool             // what is shown may be of earlier: the times of messages count
}

// at returns when a message happened.
func (o Options) at(m schemas.Message) time.Time {
	if o.replay && !m.Time.IsZero() {
		return m.Time
	}
	return o.now()
}

// Submit sends a job and shows what comes back until the job has ended, or ctx has. It
// returns the build's exit code, or ExitClient if there is none. Its error is what is to be
// said about a failure and has not been shown.
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

// submitOnce sends a job to a builder that may have no place for it.
func submitOnce(ctx context.Context, o Options) (code int, err error) {
	v := newView(o)
	defer endView(v, &code, &err)
	var conn *websocket.Conn
	conn, err = dial(ctx, o.URL, o.Token, func() error {
		if conn != nil { // there is a builder, and whatever it sends is a sign of life
			conn.SetReadDeadline(time.Now().Add(silenceTimeout))
		}
		return v.flush()
	})
	if err != nil {
		return ExitClient, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() {
		goodbye := websocket.FormatCloseMessage(websocket.CloseGoingAway, "")
		conn.WriteControl(websocket.CloseMessage, goodbye, time.Now().Add(time.Second))
		conn.Close()
	})()
	if err := conn.WriteMessage(websocket.TextMessage, o.Job); err != nil {
		return ExitClient, fmt.Errorf("send the job: %w", err)
	}
	defer ping(conn)()
	var data []byte
	return show(func() ([]byte, error) {
		data, err = readMessage(conn, data[:0])
		switch {
		case websocket.IsCloseError(err, websocket.CloseMessageTooBig):
			return nil, errTooLarge
		case err != nil:
			return nil, fmt.Errorf("the builder ended the connection without a result: %w", err)
		}
		return data, nil
	}, v)
}

var errTooLarge = errors.New("the job is larger than the builder accepts\nhint: its setting IGLU_MAX_REQUEST_BYTES is the limit")

// endView ends a view, and makes an error of its own the client's if that has none.
func endView(v view, code *int, err *error) {
	if endErr := v.end(); *err == nil && endErr != nil {
		*code, *err = ExitClient, endErr
	}
}

// show shows a job's messages up to the last. next returns the next one, which is overwritten with the
// one after it.
func show(next func() ([]byte, error), v view) (code int, err error) {
	for {
		data, err := next()
		if err != nil {
			return ExitClient, err
		}
		if line, ok := schemas.CutOutput(data); ok { // quicker, for long logs
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
			return ExitClient, fmt.Errorf("the builder sent what is not a message of its protocol: %w", err)
		case m.Line != nil:
			v.line(data, m.Line)
			continue
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

// errBusy is why a job is not taken that the builder has no place for.
var errBusy = errors.New(schemas.Busy().Error)

// resultOf returns the exit code that a message tells, and why the job failed, if it is a
// job's last one.
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

// sentences returns what a message says, as text that is safe to print.
func sentences(r *schemas.Response) string {
	text := r.Error
	if r.Error != "" && r.Msg != "" {
		text = strings.TrimSuffix(r.Error, ".") + ". "
	}
	return termtext.Visible(text + r.Msg)
}

// isDerivationLine reports whether a message is a line of a derivation's own log. There may
// be as many as lines of output, which have what is to be seen of them.
func isDerivationLine(data []byte) bool {
	return bytes.HasPrefix(data, []byte(`{"jobStatus":"running"`)) &&
		bytes.Contains(data[:min(len(data), longestStamp)], []byte(`,"event":{"type":"line",`))
}

// longestStamp is more than what stands before a message's event.
const longestStamp = 200

// A view shows a job. Its methods are for one goroutine.
type view interface {
	// line shows a line of output, and gets its message too. Both are overwritten then.
	line(data, text []byte)
	// message shows any other message. An empty one is a line of a derivation's own log.
	message(data []byte, m schemas.Message)
	// hasShown reports whether the last message, that of a failure, needs no more words.
	hasShown(last schemas.Message) bool
	// flush is called before the client waits for more: all that it has got is to be seen.
	flush() error
	// end shows what is left when no more comes, and frees what the view has taken. It
	// returns why something could not be shown.
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

// isTerminal reports whether what is written is seen on a terminal.
func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// printed says of an error, if it is one, that it is the output's.
func printed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("print the log: %w", err)
}
