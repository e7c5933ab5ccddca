package agent

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"iglu.sh/builder/test/kit/await"
)

// A question is the agent's question whether jobs run. The test answers it.
type questions struct {
	running atomic.Bool
	err     error
	asked   chan struct{}
}

func newQuestions(running bool) *questions {
	q := &questions{asked: make(chan struct{})}
	q.running.Store(running)
	return q
}

func (q *questions) answer(ctx context.Context) (bool, error) {
	select {
	case q.asked <- struct{}{}:
	case <-ctx.Done():
	}
	return q.running.Load(), q.err
}

// await waits until the agent has asked this many more times, which shows that it has not ended.
func (q *questions) await(t *testing.T, times int) {
	t.Helper()
	for range times {
		await.Receive(t, q.asked, "the agent asks whether jobs run")
	}
}

// forEver answers all further questions.
func (q *questions) forEver(t *testing.T) {
	go func() {
		for {
			select {
			case <-q.asked:
			case <-t.Context().Done():
				return
			}
		}
	}()
}

// TestDrain stops an agent while a job runs to which a client is attached.
func TestDrain(t *testing.T) {
	t.Parallel()
	e := startEngine(t, nil)
	k := install(t)
	q := newQuestions(true)
	a := startAgent(t, Options{Keys: k.agent, Socket: e.socket, Running: q.answer})
	attached := dial(t, k.server, a.address)
	if isDraining(attached) {
		t.Error("an agent that was not asked to stop says that it was")
	}
	engine := e.accept(t)

	a.stop()
	q.await(t, 2)
	write(t, engine, "output")
	wantRead(t, attached, "output")
	write(t, attached, "heartbeat")
	wantRead(t, engine, "heartbeat")
	a.inLog(t, `msg="asked to stop: waits for the engine's jobs".* why="jobs run"`)

	// The server makes the last calls of the job on new connections, and learns that the agent should get
	// no more jobs.
	next := dial(t, k.server, a.address)
	if !isDraining(next) {
		t.Error("an agent that was asked to stop does not say so")
	}
	write(t, next, "remove")
	nextEngine := e.accept(t)
	wantRead(t, nextEngine, "remove")

	// No job runs any more. But the engine owes an answer, and the job's connection is still open.
	q.running.Store(false)
	q.await(t, 3)
	write(t, nextEngine, "removed")
	wantRead(t, next, "removed")
	q.await(t, 3)
	write(t, engine, "last output")
	engine.Close()
	wantRead(t, attached, "last output")
	wantEOF(t, attached)
	attached.Close()
	q.forEver(t)
	a.awaitEnd(t) // though there is still a connection, which is idle
	wantBroken(t, next)
}

// wantBroken checks that a connection has ended.
func wantBroken(t *testing.T, conn net.Conn) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("read %d, %v", n, err)
	}
}

// TestDrainEnds checks that an agent whose jobs do not end stops after a second signal, or when its time is up.
func TestDrainEnds(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"second signal", "time"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			e := startEngine(t, nil)
			k := install(t)
			q := newQuestions(true)
			o := Options{Keys: k.agent, Socket: e.socket, Running: q.answer}
			if how == "time" {
				o.Grace = time.Millisecond
			}
			a := startAgent(t, o)
			conn := dial(t, k.server, a.address)
			e.accept(t)
			a.stop()
			if how == "second signal" {
				q.await(t, 2)
				a.force()
			}
			q.forEver(t)
			a.awaitEnd(t)
			wantBroken(t, conn)
			if !strings.Contains(a.log.String(), `msg="stops while it is in use" why="jobs run"`) {
				t.Errorf("the log:\n%s", a.log)
			}
		})
	}
}

// TestDrainInDoubt drains an agent whose engine does not say whether jobs run.
func TestDrainInDoubt(t *testing.T) {
	t.Parallel()
	k := install(t)
	q := newQuestions(false)
	q.err = errors.New("busy")
	a := startAgent(t, Options{Keys: k.agent, Socket: sayer(t).socket, Running: q.answer})
	a.stop()
	q.await(t, 3)
	if a.hasEnded() {
		t.Error("the agent ends, though jobs may run")
	}
	if got, err := ask(k.server.Dial(t.Context(), a.address)); !strings.Contains(got, secret) {
		t.Errorf("got %q, %v", got, err)
	}
	a.force()
	q.forEver(t)
	a.awaitEnd(t)
}

// TestStopOfNothing stops an unused agent.
func TestStopOfNothing(t *testing.T) {
	t.Parallel()
	k := install(t)
	a := startAgent(t, Options{Keys: k.agent, Socket: "/nonexistent"})
	a.stop()
	a.awaitEnd(t)
	if conn, err := net.Dial("tcp", a.address); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
}
