package wsapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/schemas"
)

// A leaving is a way in which a client disconnects, and how its job then ends.
type leaving struct {
	leave func(c *client)
	end   jobend.End
}

var leavings = map[string]leaving{
	"goodbye":           {func(c *client) { c.sendClose(websocket.CloseNormalClosure) }, jobend.Cancelled},
	"going away":        {func(c *client) { c.sendClose(websocket.CloseGoingAway) }, jobend.Cancelled},
	"goodbye, no code":  {func(c *client) { c.sendClose(websocket.CloseNoStatusReceived) }, jobend.Cancelled},
	"without a word":    {func(c *client) { c.Close() }, jobend.ClientGone},
	"half-closed":       {func(c *client) { c.NetConn().(interface{ CloseWrite() error }).CloseWrite() }, jobend.ClientGone},
	"protocol violated": {func(c *client) { c.NetConn().Write([]byte{0xff, 0xff}) }, jobend.ClientGone},
}

func (c *client) sendClose(code int) {
	c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Time{})
}

// TestClientLeaves disconnects clients whose job runs. The job is cancelled immediately with the right cause, and the slot
// is free as soon as the job has ended.
func TestClientLeaves(t *testing.T) {
	for name, leaving := range leavings {
		bubble(t, name, func(t *testing.T) {
			b := newHeldBuilder()
			f := serve(t, b)
			begun := time.Now()
			c := f.dial()
			c.send(job())
			<-b.begun
			leaving.leave(c)
			if cause := <-b.ended; cause != leaving.end {
				t.Errorf("the job ended for %v, not %v", cause, leaving.end)
			}
			wantFree(t, f)
			if took := time.Since(begun); took != 0 {
				t.Errorf("the slot was free after %s", took)
			}
		})
	}
}

// TestCloseIsAnswered closes connections with a close frame while a job runs. The server answers with the same code and
// closes the connection at once: it does not wait for the end of the job.
func TestCloseIsAnswered(t *testing.T) {
	for _, code := range []int{websocket.CloseNormalClosure, websocket.CloseGoingAway, websocket.CloseNoStatusReceived, 4711} {
		bubble(t, fmt.Sprint(code), func(t *testing.T) {
			cancelled, exit := make(chan struct{}), make(chan struct{})
			f := serve(t, &fakeBuilder{build: func(ctx context.Context, _ *schemas.Request, out io.Writer) schemas.Message {
				<-ctx.Done()
				close(cancelled)
				<-exit // its container needs some time
				io.WriteString(out, "a last line\n")
				return answer(schemas.Exited(1))
			}})
			defer close(exit)
			c := f.dial()
			c.send(job())
			if got := c.next(); got != accepted {
				t.Fatal(got)
			}
			begun := time.Now()
			c.sendClose(code)
			<-cancelled
			c.SetReadDeadline(time.Now().Add(time.Minute))
			_, _, err := c.NextReader()
			if bye, ok := errors.AsType[*websocket.CloseError](err); !ok || bye.Code != code {
				t.Errorf("the answer is %v", err)
			}
			if n, err := c.NetConn().Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("after that come %d bytes, %v", n, err)
			}
			if took := time.Since(begun); took != 0 {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestClientLeavesUnread disconnects clients that have not read, so that all buffers are full: the write to them, which
// waits, ends immediately, too.
func TestClientLeavesUnread(t *testing.T) {
	for name, leaving := range leavings {
		if name == "protocol violated" {
			continue // the library tries to say so first, for as long as a client may accept nothing
		}
		bubble(t, name, func(t *testing.T) {
			wrote := make(chan error, 1)
			f := serve(t, flooding(wrote))
			c := f.dial()
			c.send(job())
			elapse(10 * time.Second) // all buffers are full
			begun := time.Now()
			leaving.leave(c)
			if err := <-wrote; !errors.Is(err, jobend.ClientGone) {
				t.Errorf("the write ends with %v", err)
			}
			wantFree(t, f)
			if took := time.Since(begun); took != 0 {
				t.Errorf("the slot was free after %s", took)
			}
		})
	}
}

// TestClientLeavesEarly has clients leave before they have a job.
func TestClientLeavesEarly(t *testing.T) {
	for name, leaving := range leavings {
		bubble(t, name, func(t *testing.T) {
			f := serve(t, &fakeBuilder{})
			begun := time.Now()
			leaving.leave(f.dial())
			synctest.Wait()
			if name == "goodbye" { // and then it stays
				f.dial().sendClose(websocket.CloseNormalClosure)
				synctest.Wait()
			}
			wantFree(t, f)
			if took := time.Since(begun); took != 0 {
				t.Errorf("the slot was free after %s", took)
			}
			f.wantRefused("invalid") // wantFree's
		})
	}
}

// TestClientLeavesAtOnce leaves before its job is accepted.
func TestClientLeavesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		built := make(chan error, 10)
		f := serve(t, &fakeBuilder{build: func(ctx context.Context, _ *schemas.Request, _ io.Writer) schemas.Message {
			<-ctx.Done()
			built <- context.Cause(ctx)
			return answer(schemas.Exited(1))
		}})
		for range cap(built) {
			c := f.dial()
			c.send(job())
			c.Close()
			synctest.Wait()
		}
		close(built) // no client gets the result any more
		for cause := range built {
			if cause != jobend.ClientGone {
				t.Errorf("a job ended for %v", cause)
			}
		}
		wantFree(t, f)
	})
}

// TestClientTalksOn sends messages until after the last message: no answer follows the last message or replaces it.
func TestClientTalksOn(t *testing.T) {
	for name, serve := range map[string]func(*testing.T, Builder, ...func(*Options)) *fixture{"memory": serve, "TCP": serveTCP} {
		test := func(t *testing.T) {
			b := newHeldBuilder()
			f := serve(t, b)
			for range 5 {
				c := f.dial()
				c.send(job())
				<-b.begun
				talked := make(chan struct{})
				go func() {
					defer close(talked)
					for c.WriteMessage(websocket.TextMessage, []byte("{}")) == nil {
						c.WriteControl(websocket.PingMessage, nil, time.Time{})
					}
				}()
				for message := c.next(); message != busy; message = c.next() {
				}
				b.exit <- 42
				got := c.finish()
				<-talked
				if n := len(got.messages); n == 0 || got.messages[n-1] != exited(42) || got.code != websocket.CloseInternalServerErr {
					t.Fatalf("%d messages, close code %d, %v", n, got.code, got.err)
				}
				for _, message := range got.messages[:len(got.messages)-1] {
					if message != busy {
						t.Errorf("among them is %s", message)
					}
				}
			}
		}
		if name == "memory" {
			bubble(t, name, test)
		} else {
			t.Run(name, test)
		}
	}
}

// TestNoWriteAfterTheEnd uses a client that sends messages and pings after the last message, and stays connected for longer
// than watchInterval: nothing is sent to it any more.
func TestNoWriteAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, printing("", 0))
		f.kernelKeeps()
		c := f.dial()
		c.send(job())
		synctest.Wait()
		c.send("{}")
		c.WriteControl(websocket.PingMessage, nil, time.Time{})
		elapse(3 * watchInterval)
		c.SetCloseHandler(func(int, string) error { return nil })
		for range 2 {
			c.next()
		}
		if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Errorf("after the last message comes %v", err)
		}
		c.NetConn().(*memConn).CloseWrite()
		if rest, err := io.ReadAll(c.NetConn()); len(rest) > 0 || err != nil {
			t.Errorf("after the close frame comes %q, %v", rest, err)
		}
	})
}

// TestNoBuildForNobody checks that no job is started if its client disconnects before it is accepted.
func TestNoBuildForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, &fakeBuilder{build: func(context.Context, *schemas.Request, io.Writer) schemas.Message {
			t.Error("a job is built")
			return answer(schemas.Exited(1))
		}})
		c := f.dial()
		w, err := c.NextWriter(websocket.TextMessage)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, job())
		fromServer := c.NetConn().(*memConn).in
		fromServer.set(func() { fromServer.size = 0 }) // it takes nothing any more
		w.Close()
		f.server.sessions.Wait()
		if _, _, err := c.ReadMessage(); !errors.Is(err, io.ErrUnexpectedEOF) && !websocket.IsCloseError(err, websocket.CloseAbnormalClosure) {
			t.Errorf("it reads %v", err)
		}
	})
}

// TestHandshakeNotTaken uses a client that does not read the answer to its handshake: it does not keep the slot.
func TestHandshakeNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, &fakeBuilder{})
		f.open(webSocketRequest, 0)
		synctest.Wait()
		begun := time.Now()
		f.dial().finish().check(t, websocket.CloseInternalServerErr, busy)
		f.server.sessions.Wait()
		if took := time.Since(begun); took != handshakeTimeout {
			t.Errorf("it kept the slot for %s", took)
		}
		wantFree(t, f)
	})
}

// A brokenBuilder has jobs whose output cannot be passed on. They go on until they are cancelled.
type brokenBuilder struct{ fakeBuilder }

type brokenJob struct{ ctx context.Context }

func (*brokenBuilder) Start(ctx context.Context, _ *schemas.Request, _ string, _ func()) Job {
	return brokenJob{ctx}
}

func (brokenJob) Follow(context.Context, io.Writer) error { return errors.New("its log is broken") }

func (j brokenJob) Wait() schemas.Message {
	<-j.ctx.Done()
	return answer(schemas.Unable("The job was cancelled.", context.Cause(j.ctx).Error()))
}

// TestOutputFails has the output of a job fail while its client is connected: the job is cancelled, and the client is
// told why.
func TestOutputFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, &brokenBuilder{}).dial()
		c.send(job())
		c.finish().check(t, websocket.CloseInternalServerErr, accepted, fmt.Sprintf(cancelledFor, "its log is broken"))
	})
}
