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

// A reporter sends records to the builder.
type reporter struct{ *jobwire.Writer }

func (t reporter) phase(p schemas.Phase) { t.Event(schemas.PhaseEvent{Phase: p}) }

// usage reports what all processes of the job have used so far, and by how many bytes the store has
// grown.
func (t reporter) usage(growth int64) {
	taken := usageOf(cgroups)
	taken.StoreBytes = growth
	t.Send(jobwire.Record{Usage: taken})
}

// cgroups is where a container sees its own control group.
const cgroups = "/sys/fs/cgroup"

// usageOf reads the usage of a control group, in either version of the kernel's interface
// (cgroup-v2.rst and cgroup-v1/ in its documentation). Values that neither has are replaced by those
// of the processes that have ended: the memory of the largest, and the CPU time of all.
func usageOf(root string) *jobwire.Usage {
	processes := endedProcesses()
	cpu := cmp.Or(cpuOf(root), time.Duration(processes.Utime.Nano()+processes.Stime.Nano()))
	return &jobwire.Usage{
		PeakMemory: cmp.Or(
			numberIn(path.Join(root, "memory.peak"), ""),
			numberIn(path.Join(root, "memory/memory.max_usage_in_bytes"), ""),
			processes.Maxrss<<10),
		CPUSeconds: float64(cpu.Milliseconds()) / 1e3,
	}
}

// cpuOf returns the CPU time of a control group, or 0 if it is not known.
func cpuOf(root string) time.Duration {
	return cmp.Or(
		time.Duration(numberIn(path.Join(root, "cpu.stat"), "usage_usec"))*time.Microsecond,
		time.Duration(numberIn(path.Join(root, "cpuacct/cpuacct.usage"), "")),
		time.Duration(numberIn(path.Join(root, "cpu,cpuacct/cpuacct.usage"), "")))
}

// numberIn returns the number that follows a name in a file, or 0.
func numberIn(file, name string) (number int64) {
	text, _ := os.ReadFile(file) // not every kernel has it
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

// pushInterval is the shortest time between two reports of a push's progress.
const pushInterval = 100 * time.Millisecond

// A pushMeter reports the progress of a push, and its result.
type pushMeter struct {
	reporter reporter

	mu    sync.Mutex
	now   schemas.PushEvent
	sent  schemas.PushEvent
	timer *time.Timer // not nil while there is something to report
}

// set records the progress of the push, and reports it within pushInterval.
func (m *pushMeter) set(done, expected int, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = schemas.PushEvent{Paths: schemas.Share{Done: int64(done), Expected: int64(expected)}, Bytes: bytes}
	if m.timer == nil {
		m.timer = time.AfterFunc(pushInterval, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.report()
		})
	}
}

// report sends the progress if it has changed. m.mu is held.
func (m *pushMeter) report() {
	m.timer = nil
	if m.now != m.sent {
		m.sent = m.now
		m.reporter.Event(m.now)
	}
}

// end reports and returns the result of the push, which has ended.
func (m *pushMeter) end() *schemas.Pushed {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.timer != nil {
		m.timer.Stop()
	}
	m.report()
	pushed := &schemas.Pushed{Paths: m.now.Paths.Done, Bytes: m.now.Bytes}
	m.reporter.Send(jobwire.Record{Pushed: pushed})
	return pushed
}
