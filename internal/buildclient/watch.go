package buildclient

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"iglu.sh/builder/schemas"
)

const (
	// eventSilence is the time without any data after which a stream of events counts as broken. The
	// builder sends something at least every 15 s.
	eventSilence = 45 * time.Second
	// maxReconnects is how many times in a row a broken stream is opened again, with reconnectPause between.
	maxReconnects  = 10
	reconnectPause = time.Second
)

// Watch shows a running or ended job from its beginning, until the job or ctx has ended. It does not cancel
// the job. It returns the same as Submit.
func Watch(ctx context.Context, o Options, job string) (code int, err error) {
	o.replay = true
	v := newView(o)
	defer endView(v, &code, &err)
	s := &stream{o: o, job: job, flush: v.flush}
	defer s.close()
	return show(o, func() ([]byte, error) {
		message, err := s.next(ctx)
		if err != nil {
			err = orInterrupted(ctx, err, Interrupted("the job was not cancelled; if it is still running, this ends it: "+commandFor(o.URL, "cancel", job)))
		}
		return message, err
	}, v)
}

// A stream is a job's messages as server-sent events (https://html.spec.whatwg.org/#server-sent-events).
// A broken stream is opened again after the latest message.
type stream struct {
	o     Options
	job   string
	flush func() error // is called before the client waits for more
	shown error        // the error of flush

	body   io.Closer // nil: not open
	in     *bufio.Reader
	silent *time.Timer // ends the request
	line   []byte
	id     int64 // the number of the event that is being read
	latest int64 // the number of the latest message
	tries  int   // how often the stream was opened since the latest message
}

// errEnded is the error if a job has ended and has no last message.
var errEnded = errors.New("the job has ended without a result: its builder died, or could not keep its log")

// next returns the next message.
func (s *stream) next(ctx context.Context) ([]byte, error) {
	for {
		if err := s.open(ctx); err != nil {
			return nil, err
		}
		message, err := s.read()
		switch {
		case err == nil:
			s.tries = 0
			return message, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case s.shown != nil, errors.Is(err, errEnded), errors.Is(err, errEvent), errors.Is(err, errTooLong):
			return nil, err
		case s.tries >= maxReconnects:
			return nil, fmt.Errorf("the builder ended the connection: %w", err)
		}
		s.close()
		select {
		case <-time.After(reconnectPause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// open opens the stream after the latest message, if it is not open. It tries again if the builder does not
// answer but has sent messages before.
func (s *stream) open(ctx context.Context) error {
	u := api(s.o.URL, schemas.JobsPath+"/"+s.job+"/events")
	u.RawQuery = "from=" + strconv.FormatInt(s.latest+1, 10)
	for ; s.body == nil; s.tries++ {
		asking, cancel := context.WithCancel(ctx)
		response, err := s.o.ask(asking, http.MethodGet, u, nil)
		switch {
		case err == nil && response.StatusCode == http.StatusNoContent:
			cancel()
			response.Body.Close()
			return errEnded
		case err == nil:
			s.body = closer{response.Body, cancel}
			s.in = bufio.NewReaderSize(response.Body, bufferSize)
			s.silent = time.AfterFunc(eventSilence, cancel)
			continue
		}
		cancel()
		if s.latest == 0 || s.tries >= maxReconnects {
			return err
		}
		select {
		case <-time.After(reconnectPause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// A closer closes an answer's body, and ends its request.
type closer struct {
	io.Closer
	cancel context.CancelFunc
}

func (c closer) Close() error {
	c.cancel()
	return c.Closer.Close()
}

// close closes the stream, if it is open.
func (s *stream) close() {
	if s.body != nil {
		s.silent.Stop()
		s.body.Close()
		s.body = nil
	}
}

// errEvent is the error if a stream is not one of a builder's events.
var errEvent = errors.New("the builder sent an invalid event")

// read returns the next message of the stream. Each event has one line of data.
func (s *stream) read() ([]byte, error) {
	for {
		if err := s.readLine(); err != nil {
			return nil, err
		}
		field, value, _ := bytes.Cut(s.line, []byte(": "))
		switch string(field) {
		case "id":
			id, err := strconv.ParseInt(string(value), 10, 64)
			if err != nil {
				return nil, errEvent
			}
			s.id = id
		case "data":
			s.latest = s.id
			return value, nil
		case "event": // the end of the job: clients get no other named event
			return nil, errEnded
		}
	}
}

// readLine reads the next line.
func (s *stream) readLine() error {
	if s.in.Buffered() == 0 {
		if s.shown = s.flush(); s.shown != nil {
			return s.shown
		}
	}
	s.line = s.line[:0]
	for {
		part, err := s.in.ReadSlice('\n')
		s.silent.Reset(eventSilence)
		if s.line = append(s.line, part...); len(s.line) > maxMessage {
			return errTooLong
		}
		if err == nil {
			s.line = bytes.TrimRight(s.line, "\r\n")
			return nil
		}
		if err != bufio.ErrBufferFull {
			return err
		}
	}
}
