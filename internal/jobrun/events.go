package jobrun

import (
	"cmp"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/schemas"
)

// A reporter tells the builder what is not output.
type reporter struct{ *jobwire.Writer }

func (t reporter) phase(p schemas.Phase) { t.Event(schemas.PhaseEvent{Phase: p}) }

// usage tells what the job has taken so far, all its processes together, and what it has
// added to the store.
func (t reporter) usage(growth int64) {
	taken := usageOf(cgroups)
	taken.StoreBytes = growth
	t.Send(jobwire.Record{Usage: taken})
}

// cgroups is where a container sees its own control group.
const cgroups = "/sys/fs/cgroup"

// usageOf reads what a control group has taken, in either version of the kernel's interface
// (cgroup-v2.rst and cgroup-v1/ in its documentation). What neither tells is that of the
// processes that have ended: the memory of the largest, and the time of all.
func usageOf(root string) *jobwire.Usage {
	processes := endedProcesses()
	cpu := cmp.Or(
		time.Duration(numberIn(path.Join(root, "cpu.stat"), "usage_usec"))*time.Microsecond,
		time.Duration(numberIn(path.Join(root, "cpuacct/cpuacct.usage"), "")),
		time.Duration(processes.Utime.Nano()+processes.Stime.Nano()))
	return &jobwire.Usage{
		PeakMemory: cmp.Or(
			numberIn(path.Join(root, "memory.peak"), ""),
			numberIn(path.Join(root, "memory/memory.max_usage_in_bytes"), ""),
			processes.Maxrss<<10),
		CPUSeconds: float64(cpu.Milliseconds()) / 1e3,
	}
}

// numberIn returns the number that stands in a file behind a name, or 0.
func numberIn(file, name string) (number int64) {
	text, _ := os.ReadFile(file) // not there: not told
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name); ok && number == 0 {
			number, _ = strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		}
	}
	return number
}

func endedProcesses() (taken unix.Rusage) {
	unix.Getrusage(unix.RUSAGE_CHILDREN, &taken)
	return taken
}

// pushInterval is how often progress of a push is told at most.
const pushInterval = 100 * time.Millisecond

// A pushMeter tells how far a push has come, now and then, and what it comes to.
type pushMeter struct {
	teller reporter

	mu    sync.Mutex
	now   schemas.PushEvent
	told  schemas.PushEvent
	timer *time.Timer // runs while there is something to tell
}

// set takes how far the push has come.
func (m *pushMeter) set(done, expected int, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = schemas.PushEvent{Paths: schemas.Share{Done: int64(done), Expected: int64(expected)}, Bytes: bytes}
	if m.timer == nil {
		m.timer = time.AfterFunc(pushInterval, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.tell()
		})
	}
}

func (m *pushMeter) tell() {
	m.timer = nil
	if m.now != m.told {
		m.told = m.now
		m.teller.Event(m.now)
	}
}

// end tells the last of it, and returns what the push comes to. It is over.
func (m *pushMeter) end() *schemas.Pushed {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.timer != nil {
		m.timer.Stop()
	}
	m.tell()
	pushed := &schemas.Pushed{Paths: m.now.Paths.Done, Bytes: m.now.Bytes}
	m.teller.Send(jobwire.Record{Pushed: pushed})
	return pushed
}
