package wsapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/schemas"
)

// TestNoJobInTime has clients send no job: nothing at all, or one byte by byte.
func TestNoJobInTime(t *testing.T) {
	const timeout = 30 * time.Second
	// trickle sends a little each second, and no end.
	trickle := func(c *client) {
		w, err := c.NextWriter(websocket.TextMessage)
		for err == nil {
			_, err = w.Write([]byte(strings.Repeat(" ", 5000)))
			elapse(time.Second)
		}
	}
	for name, idle := range map[string]func(c *client){
		"silence": func(*client) {},
		"trickle": trickle,
		"pings": func(c *client) {
			for range 20 {
				c.WriteControl(websocket.PingMessage, nil, time.Time{})
			}
		},
	} {
		bubble(t, name, func(t *testing.T) {
			f := serve(t, &fakeBuilder{}, func(o *Options) { o.MaxRequestBytes = 1 << 30 })
			begun := time.Now()
			c := f.dial()
			var all sync.WaitGroup
			all.Go(func() { idle(c) })
			c.finish().check(t, websocket.ClosePolicyViolation, noJobInTime)
			if took := time.Since(begun); took != timeout {
				t.Errorf("it got the end after %s", took)
			}
			f.wantRefused("no-job")
			all.Wait()
			wantFree(t, f)
		})
	}
}

// TestDeafClient uses a client that sends no job, but pings without end. It reads nothing, so answers to it cannot be
// written. The slot is free after the request timeout, and the connection is closed soon after.
func TestDeafClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, &fakeBuilder{})
		c := f.dial()
		begun := time.Now()
		gone := make(chan time.Duration)
		go func() {
			for c.WriteControl(websocket.PingMessage, []byte(strings.Repeat("x", 125)), time.Time{}) == nil {
				elapse(time.Millisecond)
			}
			gone <- time.Since(begun)
		}()
		elapse(30*time.Second + time.Millisecond)
		synctest.Wait()
		wantFree(t, f)
		if took := <-gone; took > 30*time.Second+2*closeTimeout+time.Second {
			t.Errorf("its connection was closed after %s", took)
		}
		f.wantRefused("no-job", "invalid") // of wantFree
	})
}

// TestIdleClient runs a job that prints nothing for an hour. Its client stays connected, because it answers pings.
func TestIdleClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHeldBuilder()
		c := serve(t, b).dial()
		var pings []time.Duration
		begun := time.Now()
		answer := c.PingHandler()
		c.SetPingHandler(func(data string) error {
			pings = append(pings, time.Since(begun))
			return answer(data)
		})
		c.send(job())
		<-b.begun
		time.AfterFunc(time.Hour, func() { b.exit <- 0 })
		c.finish().check(t, websocket.CloseNormalClosure, accepted, succeeded)
		for i, at := range pings {
			if at != time.Duration(i+1)*watchInterval {
				t.Fatalf("ping %d came after %s", i, at)
			}
		}
		if len(pings) < 719 { // every 5 s
			t.Errorf("%d pings", len(pings))
		}
	})
}

// TestSilentClient uses clients that never send anything, not even answers to pings, or stop doing so: the job ends 25 s
// after the last data from the client.
func TestSilentClient(t *testing.T) {
	for name, test := range map[string]struct {
		send func(c *client)
		want time.Duration
	}{
		"from the start": {func(*client) {}, silenceTimeout},
		"after a pong": {func(c *client) {
			elapse(20 * time.Second)
			c.WriteControl(websocket.PongMessage, nil, time.Time{})
		}, 20*time.Second + silenceTimeout},
		"after a message": {func(c *client) {
			elapse(24 * time.Second)
			c.send("{}")
		}, 24*time.Second + silenceTimeout},
	} {
		bubble(t, name, func(t *testing.T) {
			b := newHeldBuilder()
			f := serve(t, b)
			c := f.dial()
			c.send(job())
			<-b.begun
			begun := time.Now()
			test.send(c)
			if cause := <-b.ended; cause != jobend.ClientGone {
				t.Errorf("the job ended for %v", cause)
			}
			if took := time.Since(begun); took != test.want {
				t.Errorf("it ended after %s, not %s", took, test.want)
			}
			synctest.Wait()
			wantFree(t, f) // at once: nothing more is sent to the client
			if took := time.Since(begun); took != test.want {
				t.Errorf("the slot was free after %s", took)
			}
		})
	}
}

// TestPausedClient uses a client that reads nothing for a while, such as one whose terminal is stopped, but sends pings. Its
// job prints too little to fill the buffers on the way, so that nothing but these pings shows that it is there.
func TestPausedClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHeldBuilder()
		c := serve(t, b).dial()
		c.send(job())
		<-b.begun
		for range 10 {
			elapse(10 * time.Second)
			if err := c.WriteControl(websocket.PingMessage, nil, time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		b.exit <- 0
		c.finish().check(t, websocket.CloseNormalClosure, accepted, succeeded)
	})
}

// flood is more than all buffers on the way to a client hold.
var flood = strings.Repeat(floodLine+"\n", floodLines)

const (
	floodLine  = "0123456789012345678901234567890123456789"
	floodLines = 6000
)

// flooding is a builder whose jobs print the flood and then say how the write went.
func flooding(wrote chan<- error) *fakeBuilder {
	return &fakeBuilder{build: func(_ context.Context, _ *schemas.Request, out io.Writer) schemas.Message {
		_, err := io.WriteString(out, flood)
		wrote <- err
		if err != nil {
			return answer(schemas.Unable("The job was cancelled.", err.Error()))
		}
		return answer(schemas.Exited(0))
	}}
}

// TestStalledClient uses a client that stops reading while its job prints, for longer than silenceTimeout, but not for
// longer than the client timeout. When it reads on, it gets every line.
func TestStalledClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrote := make(chan error, 1)
		c := serve(t, flooding(wrote)).dial()
		c.send(job())
		begun := time.Now()
		elapse(29 * time.Second)
		want := slices.Repeat([]string{line(floodLine)}, floodLines)
		want = slices.Concat([]string{accepted}, want, []string{succeeded})
		c.finish().check(t, websocket.CloseNormalClosure, want...)
		if err := <-wrote; err != nil {
			t.Errorf("the write ends with %v", err)
		}
		if took := time.Since(begun); took != 29*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

// TestSlowClient reads a little now and then: that is enough, however long it takes.
func TestSlowClient(t *testing.T) {
	for name, serve := range map[string]func(*testing.T, Builder, ...func(*Options)) *fixture{"plain": serve, "TLS": serveTLS} {
		bubble(t, name, func(t *testing.T) {
			wrote := make(chan error, 1)
			c := serve(t, flooding(wrote)).dial()
			c.SetPingHandler(func(data string) error {
				c.WriteControl(websocket.PongMessage, []byte(data), time.Time{}) // the server may be gone
				return nil
			})
			c.send(job())
			begun := time.Now()
			got := story{}
			for n := 0; ; n++ {
				_, data, err := c.ReadMessage()
				if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
					got.code = closed.Code
					break
				}
				if got.err = err; err != nil {
					break
				}
				got.messages = append(got.messages, string(data))
				if n%100 == 0 {
					elapse(5 * time.Second)
				}
			}
			if err := <-wrote; err != nil {
				t.Errorf("the write ends with %v", err)
			}
			if n := len(got.messages); n != floodLines+2 || got.messages[n-1] != succeeded || got.code != websocket.CloseNormalClosure {
				t.Errorf("%d messages, close code %d, %v", n, got.code, got.err)
			}
			if took := time.Since(begun); took < 5*time.Minute {
				t.Errorf("it took but %s", took)
			}
		})
	}
}

// An endedBuilder has jobs that have ended before their log is read.
type endedBuilder struct{ *fakeBuilder }

func (b endedBuilder) Start(ctx context.Context, request *schemas.Request, client string, release func()) Job {
	release()
	return b.fakeBuilder.Start(ctx, request, client, func() {})
}

// TestSlowReaderOfEndedJob uses a client that reads nothing although its job has ended. Another client gets the slot. The
// first one can still get its log, unless there are too many connections.
func TestSlowReaderOfEndedJob(t *testing.T) {
	for name, test := range map[string]struct {
		log      string // more than the buffers on the way hold, or less
		maxConns int
		keeps    bool
	}{
		"few connections":           {flood, 2, true},
		"few, and all is sent":      {floodLine + "\n", 2, true},
		"too many":                  {flood, 1, false},
		"too many, and all is sent": {floodLine + "\n", 1, true},
	} {
		bubble(t, name, func(t *testing.T) {
			f := serveLimited(t, test.maxConns, endedBuilder{printing(test.log, 0)})
			begun := time.Now()
			// The client takes a byte each second, and so keeps its connection.
			f.server.tcpInfo = func(net.Conn) (tcpState, bool) {
				return tcpState{taken: uint64(time.Since(begun) / time.Second), waiting: time.Since(begun) < time.Minute}, true
			}
			slow := f.dial()
			slow.send(job())
			elapse(5 * time.Second)
			other := f.dial()
			if took := time.Since(begun); took > 6*time.Second {
				t.Errorf("the other client is connected after %s", took)
			}
			all := strings.Count(test.log, "\n") + 2
			other.send(job())
			if got := other.finish(); len(got.messages) != all || got.code != websocket.CloseNormalClosure {
				t.Errorf("the other client: %d messages, close code %d, %v", len(got.messages), got.code, got.err)
			}
			got := slow.finish()
			if keeps := got.code == websocket.CloseNormalClosure; keeps != test.keeps {
				t.Errorf("the first client: %d messages, close code %d, %v", len(got.messages), got.code, got.err)
			}
		})
	}
}

// TestClientAcceptsNothing never reads: when its time is up, its job ends.
func TestClientAcceptsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrote := make(chan error, 1)
		f := serve(t, flooding(wrote), func(o *Options) { o.ClientTimeout = 40 * time.Second })
		c := f.dial()
		c.send(job())
		begun := time.Now()
		if err := <-wrote; !errors.Is(err, jobend.ClientGone) {
			t.Errorf("the write ends with %v", err)
		}
		if took := time.Since(begun); took != 80*time.Second { // it took some of it, and then nothing
			t.Errorf("it ended after %s", took)
		}
		if got := c.finish(); got.code != 0 {
			t.Errorf("the connection was closed with %d", got.code)
		}
		wantFree(t, f)
	})
}

// TestUnanswered uses a kernel state which says that the client's machine does not answer.
func TestUnanswered(t *testing.T) {
	silent := tcpState{tries: 1, silence: answerTimeout + 1}
	for name, test := range map[string]struct {
		states []tcpState // each time that the kernel is asked; then the last again
		want   time.Duration
	}{
		"gone":           {[]tcpState{silent}, 2 * watchInterval},
		"gone later":     {[]tcpState{{}, silent, {}, silent, silent}, 5 * watchInterval},
		"tried again":    {[]tcpState{{tries: 5, silence: answerTimeout}}, 0},
		"nothing to ask": {[]tcpState{{silence: time.Hour}}, 0},
	} {
		bubble(t, name, func(t *testing.T) {
			b := newHeldBuilder()
			f := serve(t, b)
			var asked atomic.Int64
			f.server.tcpInfo = func(net.Conn) (tcpState, bool) {
				return test.states[min(int(asked.Add(1)), len(test.states))-1], true
			}
			begun := time.Now()
			c := f.dial()
			c.send(job())
			ended := c.inBackground() // answers pings
			<-b.begun
			if test.want == 0 {
				elapse(time.Minute)
				b.exit <- 0
				(<-ended).check(t, websocket.CloseNormalClosure, accepted, succeeded)
				return
			}
			if cause := <-b.ended; cause != jobend.ClientGone {
				t.Errorf("the job ended for %v", cause)
			}
			if took := time.Since(begun); took != test.want {
				t.Errorf("it ended after %s", took)
			}
			<-ended
		})
	}
}

// TestSlowToTheEnd uses a client that reads only some time after its job has ended. The server does not close the
// connection as long as the client makes progress with the data that the kernel still has.
func TestSlowToTheEnd(t *testing.T) {
	for name, test := range map[string]struct {
		taken func(seconds int) uint64 // by the client, until some time after the job's end
		done  int                      // when it has all, in seconds; 0: never
		want  time.Duration
	}{
		"all at once":      {func(int) uint64 { return 0 }, 20, 20 * time.Second},
		"little by little": {func(s int) uint64 { return uint64(s / 25) }, 200, 200 * time.Second},
		"nothing":          {func(int) uint64 { return 7 }, 0, 30 * time.Second},
		"then nothing":     {func(s int) uint64 { return min(uint64(s/10), 3) }, 0, 60 * time.Second},
	} {
		bubble(t, name, func(t *testing.T) {
			f := serve(t, printing("line\n", 0))
			begun := time.Now()
			f.server.tcpInfo = func(net.Conn) (tcpState, bool) {
				seconds := int(time.Since(begun) / time.Second)
				return tcpState{taken: test.taken(seconds), waiting: test.done == 0 || seconds < test.done}, true
			}
			c := f.dial()
			c.send(job())
			f.server.sessions.Wait()
			if took := time.Since(begun) - closeTimeout; took != test.want {
				t.Errorf("the server let go after %s, not %s", took, test.want)
			}
			if test.done > 0 {
				c.finish().check(t, websocket.CloseNormalClosure, accepted, line("line"), succeeded)
			}
		})
	}
}

// TestClientDoesNotClose uses clients, with and without a job, that read everything, send more, and do not close their
// connection: the server waits for exactly closeTimeout.
func TestClientDoesNotClose(t *testing.T) {
	for name, send := range map[string]string{"job": job(), "refused": "{}", "too large": strings.Repeat(" ", 10_000), "silent": ""} {
		bubble(t, name, func(t *testing.T) {
			f := serve(t, printing("", 0), func(o *Options) { o.MaxRequestBytes = 5000 })
			c := f.dial()
			c.SetCloseHandler(func(int, string) error { return nil })
			if send != "" {
				c.send(send)
			}
			var told time.Time
			for err := error(nil); err == nil; {
				_, _, err = c.ReadMessage()
				told = time.Now()
			}
			var talking sync.WaitGroup
			talking.Go(func() {
				for c.WriteMessage(websocket.TextMessage, []byte("{}")) == nil {
					elapse(closeTimeout / 3)
				}
			})
			f.server.sessions.Wait()
			if took := time.Since(told); took < closeTimeout || took > closeTimeout+takenInterval {
				t.Errorf("the server let go after %s", took)
			}
			talking.Wait()
		})
	}
}

// TestPings uses a client that sends many pings while it gets lines.
func TestPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHeldBuilder()
		c := serve(t, b).dial()
		answered := ""
		c.SetPongHandler(func(data string) error { answered += data; return nil })
		c.send(job())
		out := <-b.begun
		c.next()
		want := ""
		for n := range 50 {
			ping := fmt.Sprint(n, ",")
			want += ping
			go io.WriteString(out, "line\n")
			c.WriteControl(websocket.PingMessage, []byte(ping), time.Time{})
			synctest.Wait()
			c.next()
		}
		b.exit <- 0
		c.finish().check(t, websocket.CloseNormalClosure, succeeded)
		if answered != want {
			t.Errorf("answers %q", answered)
		}
	})
}

// TestPingFlood sends pings and does not read. The answers do not delay the log, and the latest ping is answered after it.
func TestPingFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrote := make(chan error, 1)
		c := serve(t, flooding(wrote)).dial()
		answered := ""
		c.SetPongHandler(func(data string) error { answered = data; return nil })
		c.send(job())
		synctest.Wait() // all buffers are full
		for n := range 1000 {
			c.WriteControl(websocket.PingMessage, []byte(fmt.Sprint(n)), time.Time{})
		}
		synctest.Wait() // and all pings read
		if got := c.finish(); len(got.messages) != floodLines+2 || got.code != websocket.CloseNormalClosure {
			t.Errorf("%d messages, close code %d, %v", len(got.messages), got.code, got.err)
		}
		if err := <-wrote; err != nil || answered != "999" {
			t.Errorf("the last answer is %q, the write ended with %v", answered, err)
		}
	})
}

// kernelKeeps has the kernel say that a client has taken a little more each time, and not all.
func (f *fixture) kernelKeeps() {
	var taken atomic.Uint64
	f.server.tcpInfo = func(net.Conn) (tcpState, bool) { return tcpState{taken: taken.Add(1), waiting: true}, true }
}

// TestLeavesAtTheEnd has clients leave that have not taken all: that is noticed.
func TestLeavesAtTheEnd(t *testing.T) {
	for name, leaving := range leavings {
		bubble(t, name, func(t *testing.T) {
			f := serve(t, printing("", 0))
			f.kernelKeeps()
			c := f.dial()
			c.send(job())
			elapse(10*time.Second + takenInterval/2)
			begun := time.Now()
			leaving.leave(c)
			f.server.sessions.Wait()
			if took := time.Since(begun); took != takenInterval/2 {
				t.Errorf("the server let go after %s", took)
			}
		})
	}
}
