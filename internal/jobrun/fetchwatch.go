package jobrun

import (
	"cmp"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"iglu.sh/builder/internal/tick"
)

const (
	// fetchSilence is how long git may wait for a server that sends nothing.
	fetchSilence = 2 * time.Minute
	// fetchStep is the interval between two looks at git's progress.
	fetchStep = 10 * time.Second
	// leastReceived is how many bytes must arrive in a step, or else the server counts as silent. It
	// is not 1, because other machines of the network send a packet now and then.
	leastReceived = 4 << 10
	// leastCPU is how much CPU time a step must use, or else git counts as idle. Git works without
	// the server when it unpacks what it has received, for example.
	leastCPU = fetchStep / 50
)

// A fetchWatch kills git if the server is silent for too long, with any transport, or if fetching the
// whole source takes too long.
type fetchWatch struct {
	now      func() effort
	kill     func() // kills the running git
	deadline time.Time
	timeout  time.Duration
	passed   atomic.Bool // the deadline has passed, and the log says so
	reason   atomic.Pointer[string]
}

// effort is what a container has received and used since its start.
type effort struct {
	received int64 // over the network, in bytes
	cpu      time.Duration
}

func watchFetch(timeout time.Duration, kill func()) *fetchWatch {
	return &fetchWatch{now: containersEffort, kill: kill, timeout: timeout, deadline: time.Now().Add(timeout)}
}

// over reports whether the deadline has passed, and the log says so.
func (w *fetchWatch) over() bool { return w.passed.Load() }

// expire reports whether the deadline has passed, and says so the first time.
func (w *fetchWatch) expire() bool {
	if time.Now().After(w.deadline) && !w.passed.Swap(true) {
		w.say("the source was not fetched within %s; the operator of the builder can allow more (IGLU_FETCH_TIMEOUT)", w.timeout)
	}
	return w.over()
}

// say says why git is killed.
func (w *fetchWatch) say(format string, args ...any) {
	say(format, args...)
	reason := fmt.Sprintf(format, args...)
	w.reason.Store(&reason)
}

// said returns what was said last.
func (w *fetchWatch) said() string {
	if reason := w.reason.Load(); reason != nil {
		return *reason
	}
	return ""
}

// begin watches a running git until the returned function is called, which reports whether git was
// killed.
func (w *fetchWatch) begin() (end func() (killed bool)) {
	last, silent, killed := w.now(), time.Duration(0), false
	stop := tick.Every(fetchStep, func() {
		now := w.now()
		if now.received-last.received < leastReceived && now.cpu-last.cpu < leastCPU {
			silent += fetchStep
		} else {
			silent = 0
		}
		last = now
		switch {
		case w.over():
		case w.expire():
			killed = true
			w.kill()
		case silent >= fetchSilence:
			silent = 0
			w.say("git has waited %s for a server that sends nothing", fetchSilence)
			killed = true
			w.kill()
		}
	})
	return func() bool {
		stop()
		return killed
	}
}

// containersEffort returns the effort of this container.
func containersEffort() effort {
	network, _ := os.ReadFile("/proc/net/dev")
	return effort{received: receivedBytes(string(network)), cpu: usedCPU(cgroups)}
}

// receivedBytes adds up what all interfaces but the loopback have received: proc_net(5).
func receivedBytes(dev string) (sum int64) {
	for line := range strings.Lines(dev) {
		name, numbers, ok := strings.Cut(line, ":")
		if fields := strings.Fields(numbers); ok && len(fields) > 0 && strings.TrimSpace(name) != "lo" {
			n, _ := strconv.ParseInt(fields[0], 10, 64)
			sum += n
		}
	}
	return sum
}

// usedCPU returns the CPU time of all processes of a container or, if that is not known, the time since the start. Then
// git never looks idle, and only the deadline ends it.
func usedCPU(cgroup string) time.Duration { return cmp.Or(cpuOf(cgroup), time.Since(unknownSince)) }

var unknownSince = time.Now()
