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

// inBackgroundOf calls a function that waits, and returns what is closed when it has returned.
func inBackgroundOf(wait func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		wait()
	}()
	return done
}

// TestClose ends the running job, and the connections of clients without a job. Each client gets a message.
func TestClose(t *testing.T) {
	forms(t, func(t *testing.T, format schemas.Format) {
		b := newHeldBuilder()
		f := serve(t, b)
		c := f.dial()
		c.send(jobIn(format, "nix"))
		<-b.begun
		begun := time.Now()
		closed := inBackgroundOf(f.server.Close)
		c.finish().check(t, websocket.CloseInternalServerErr, inFormat(format, accepted), inFormat(format, fmt.Sprintf(cancelledFor, "shutdown")))
		<-closed
		if cause := <-b.ended; cause != jobend.Shutdown {
			t.Errorf("the job ended for %v", cause)
		}
		if took := time.Since(begun); took > takenInterval {
			t.Errorf("it took %s", took)
		}
		f.wantRefused()
	})
}

// TestCloseWithoutJob closes while a client has not sent its job, or but half of it.
func TestCloseWithoutJob(t *testing.T) {
	for name, half := range map[string]string{"nothing": "", "half a job": "{                "} {
		bubble(t, name, func(t *testing.T) {
			f := serve(t, &fakeBuilder{})
			c := f.dial()
			if half != "" {
				if w, err := c.NextWriter(websocket.TextMessage); err != nil {
					t.Fatal(err)
				} else {
					io.WriteString(w, fmt.Sprintf("%-10000s", half)) // more than the client keeps back
				}
			}
			synctest.Wait() // the server waits for its job
			begun := time.Now()
			closed := inBackgroundOf(f.server.Close)
			c.finish().check(t, websocket.CloseInternalServerErr, notTaken)
			<-closed
			f.wantRefused("draining")
			if took := time.Since(begun); took != 0 {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestDrain lets the running job end, and takes no other.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHeldBuilder()
		f := serve(t, b)
		c := f.dial()
		c.send(job())
		<-b.begun
		f.server.Drain()
		f.dial().finish().check(t, websocket.CloseInternalServerErr, notTaken)
		f.wantRefused("draining")
		if status, body := f.ask("GET", "/readyz"); status != 503 || body != "The builder is shutting down.\n" {
			t.Errorf("readyz: %d %q", status, body)
		}
		if status, _ := f.ask("GET", "/livez"); status != 200 {
			t.Errorf("livez: %d", status)
		}
		c.next()
		c.send("{}") // still answered
		if got := c.next(); got != busy {
			t.Errorf("a second job gets %s", got)
		}
		b.exit <- 0
		c.finish().check(t, websocket.CloseNormalClosure, succeeded)
		// For ever: no client gets the place any more.
		f.dial().finish().check(t, websocket.CloseInternalServerErr, notTaken)
	})
}

// TestDrainWithoutJob drains a server while a client has not sent its job: the client gets a message immediately.
func TestDrainWithoutJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, &fakeBuilder{})
		c := f.dial()
		synctest.Wait()
		begun := time.Now()
		f.server.Drain()
		c.finish().check(t, websocket.CloseInternalServerErr, notTaken)
		if took := time.Since(begun); took != 0 {
			t.Errorf("it took %s", took)
		}
	})
}

// TestCloseWithStalledClient closes the server while a write waits for a client that does not read. The client counts as
// behind, so the server does not wait for the last lines of its job.
func TestCloseWithStalledClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrote := make(chan error, 1)
		f := serve(t, flooding(wrote))
		c := f.dial()
		c.send(job())
		elapse(10 * time.Second)
		begun := time.Now()
		f.server.Close()
		if took := time.Since(begun); took != behindTimeout+closingTimeout {
			t.Errorf("the server took %s", took)
		}
		if err := <-wrote; !errors.Is(err, jobend.ClientGone) {
			t.Errorf("the write ends with %v", err)
		}
	})
}

// TestLeavesWhileClosing disconnects a client to which a closing server still writes: that ends the write.
func TestLeavesWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrote := make(chan error, 1)
		f := serve(t, flooding(wrote))
		c := f.dial()
		c.send(job())
		elapse(10 * time.Second)
		begun := time.Now()
		closed := inBackgroundOf(f.server.Close)
		elapse(2 * time.Second)
		c.sendClose(websocket.CloseNormalClosure)
		<-closed
		if took := time.Since(begun); took != 2*time.Second {
			t.Errorf("the server took %s", took)
		}
		if err := <-wrote; !errors.Is(err, jobend.ClientGone) {
			t.Errorf("the write ends with %v", err)
		}
	})
}

// TestCloseWithSlowEnd closes the server while a job needs some time to end, and then prints much. Its client was not
// behind before.
func TestCloseWithSlowEnd(t *testing.T) {
	for name, reads := range map[string]bool{"reads": true, "stalls": false} {
		bubble(t, name, func(t *testing.T) {
			const end = 12 * time.Second
			wrote := make(chan error, 1)
			begun := make(chan struct{})
			f := serve(t, &fakeBuilder{build: func(ctx context.Context, _ *schemas.Request, out io.Writer) schemas.Message {
				close(begun)
				<-ctx.Done()
				elapse(end)
				_, err := io.WriteString(out, flood)
				wrote <- err
				return answer(schemas.Exited(143))
			}})
			c := f.dial()
			c.send(job())
			<-begun
			var ended <-chan story
			if reads {
				ended = c.inBackground()
			}
			from := time.Now()
			f.server.Close()
			took, err := time.Since(from), <-wrote
			if !reads {
				if took != closingTimeout+endingTimeout || !errors.Is(err, jobend.ClientGone) {
					t.Errorf("the server took %s, the write ended with %v", took, err)
				}
				return
			}
			if took < end || took > end+takenInterval || err != nil {
				t.Errorf("the server took %s, the write ended with %v", took, err)
			}
			got := <-ended
			if n := len(got.messages); n != floodLines+2 || got.messages[n-1] != exited(143) {
				t.Errorf("%d messages, close code %d, %v", n, got.code, got.err)
			}
		})
	}
}

// TestCloseAtTheEnd closes the server while the kernel still has the last data for a client: the server does not wait
// longer for that than for a job.
func TestCloseAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, printing("", 0))
		f.kernelKeeps()
		c := f.dial()
		c.send(job())
		elapse(12 * time.Second) // between two pings
		begun := time.Now()
		f.server.Close()
		if took := time.Since(begun) - closeTimeout; took != closingTimeout+endingTimeout {
			t.Errorf("the server took %s", took)
		}
	})
}
