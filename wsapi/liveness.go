package wsapi

import (
	"context"
	"time"

	"iglu.sh/builder/internal/tick"
)

const (
	// watchInterval is how often a client is asked for a sign of life while its job
	// runs, and silenceTimeout after how long without one it counts as gone.
	watchInterval  = 5 * time.Second
	silenceTimeout = 25 * time.Second
	// answerTimeout is how long a client's machine may take to acknowledge what it
	// is sent, again and again.
	answerTimeout = 15 * time.Second
)

// heard notes a sign of life from the client.
func (s *session) heard() {
	if !s.closing.Load() {
		s.conn.SetReadDeadline(time.Now().Add(silenceTimeout))
	}
}

// watch looks after the client, and at whether the server closes, until the function that it
// returns is called. A client that gives no sign of life has vanished. One that does not take
// what it is sent cannot see a ping either; it is there as long as its machine answers.
func (s *session) watch() (stop func()) {
	deadlineSet := make(chan struct{})
	stopWaiting := context.AfterFunc(s.server.closing, func() {
		defer close(deadlineSet)
		s.out.setShutdownDeadline()
	})
	unanswered := 0
	stopAsking := tick.Every(watchInterval, func() {
		if s.isUnanswered() {
			unanswered++
		} else {
			unanswered = 0
		}
		// Once can be chance: the kernel may just have tried.
		if unanswered > 1 {
			s.conn.Close()
		} else if !s.out.sendPing() {
			s.heard()
		}
	})
	return func() {
		stopAsking()
		if !stopWaiting() {
			<-deadlineSet
		}
	}
}

// isUnanswered reports whether the kernel has sent to the client's machine again
// without an answer, and for how long there was none. The machine of a client that
// merely does not read answers.
func (s *session) isUnanswered() bool {
	state, ok := s.server.tcpInfo(s.conn.NetConn())
	return ok && state.tries > 0 && state.silence > answerTimeout
}

// takenInterval is how often the kernel is asked whether a client has taken its last message.
const takenInterval = 50 * time.Millisecond

// awaitTaken waits until the client's machine has all that was written, as long as it takes
// any of it. What the kernel still has when a connection is closed is lost if the client
// sends something.
func (s *session) awaitTaken() {
	var taken uint64
	for since := time.Now(); time.Since(since) < s.server.options.ClientTimeout && !s.out.isPastCloseDeadline(); {
		state, ok := s.server.tcpInfo(s.conn.NetConn())
		if !ok || !state.waiting {
			return
		}
		if state.taken != taken {
			taken, since = state.taken, time.Now()
		}
		time.Sleep(takenInterval)
	}
}

// tcpState is what the kernel knows of a connection.
type tcpState struct {
	silence time.Duration // since the last answer of the other side
	tries   int           // how often it was tried again since
	taken   uint64        // bytes that the other side's machine has acknowledged
	waiting bool          // whether there are more
}
