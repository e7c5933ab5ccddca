package wsapi

import (
	"context"
	"time"

	"iglu.sh/builder/internal/tick"
)

const (
	// watchInterval is how often a client gets a ping while its job runs. A client that sends nothing for
	// silenceTimeout, not even the answers, counts as disconnected.
	watchInterval  = 5 * time.Second
	silenceTimeout = 25 * time.Second
	// answerTimeout is how long a client's machine may acknowledge nothing while the kernel sends
	// data to it repeatedly.
	answerTimeout = 15 * time.Second
)

// heard extends the read deadline, because the client has sent something.
func (s *session) heard() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		s.conn.SetReadDeadline(time.Now().Add(silenceTimeout))
	}
}

// watch checks whether the client is still connected, and sets the close deadline when the server closes. It
// does so until stop is called.
//
// A client that does not answer pings is disconnected. A client that does not read cannot receive a ping: it
// counts as connected as long as its machine acknowledges data.
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
		// One time is not enough: the kernel may have sent the data only just now.
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

// isUnanswered reports whether the client's machine has not answered for answerTimeout although the kernel has
// sent data repeatedly. If only the client does not read, its machine still answers.
func (s *session) isUnanswered() bool {
	state, ok := s.server.tcpInfo(s.conn.NetConn())
	return ok && state.tries > 0 && state.silence > answerTimeout
}

// takenInterval is how often awaitTaken asks the kernel.
const takenInterval = 50 * time.Millisecond

// awaitTaken waits until the client's machine has acknowledged everything that was written. It returns earlier
// if there is no progress for the client timeout. If a connection is closed and the client then sends
// something, the data that the kernel still holds is lost.
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

// tcpState is the kernel's state of a TCP connection.
type tcpState struct {
	silence time.Duration // the time since the other side's last acknowledgement
	tries   int           // the number of retransmissions and probes since then
	taken   uint64        // the number of bytes that the other side's machine has acknowledged
	waiting bool          // whether there are bytes that it has not acknowledged
}
