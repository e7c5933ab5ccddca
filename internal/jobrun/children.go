package jobrun

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// killDelay is how long a program may take to end after SIGTERM. It is shorter than
// the 10 s that engines give a container by default.
const killDelay = 8 * time.Second

// children starts programs and waits for them. As PID 1 it inherits every orphan of
// the container, so it alone calls wait, for any child: os/exec would fight over
// the exit codes. It passes SIGTERM and SIGINT on to the programs that run.
type children struct {
	signals chan os.Signal
	done    chan struct{} // closed when the goroutine that watches signals has ended
	stop    func()        // tells the rest of the job that it is to end

	mu          sync.Mutex
	running     map[int]child // the process groups of programs
	terminating bool          // the job was asked to end: nothing more is started
	ended       bool          // likewise, because it has ended
	none        chan struct{} // closed when no process is left; nil: nobody waits for that
}

// A child is a program that runs.
type child struct {
	exited  chan<- int // gets its exit code
	remains bool       // when the job is asked to end
}

// newChildren returns one that calls stop when the job is asked to end.
func newChildren(stop func()) *children {
	c := &children{signals: make(chan os.Signal, 16), done: make(chan struct{}), stop: stop, running: make(map[int]child)}
	signal.Notify(c.signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT)
	go c.watch()
	return c
}

func (c *children) close() {
	signal.Stop(c.signals)
	close(c.signals)
	<-c.done
}

func (c *children) watch() {
	defer close(c.done)
	for s := range c.signals {
		if s == unix.SIGCHLD {
			c.reap()
		} else {
			c.terminate()
		}
	}
}

// reap collects every child that has ended, orphans included.
func (c *children) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err == unix.ECHILD && c.none != nil {
			close(c.none)
			c.none = nil
		}
		if err != nil || pid == 0 {
			return
		}
		if child, ok := c.running[pid]; ok {
			delete(c.running, pid)
			child.exited <- exitCode(status)
		}
	}
}

// exitCode is a status as a shell tells it.
func exitCode(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// terminate asks the programs that run to end, and sees to it that they do.
func (c *children) terminate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.terminating = true
	c.stop()
	c.signal(unix.SIGTERM)
	time.AfterFunc(killDelay, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.signal(unix.SIGKILL)
	})
}

// signalAll sends a signal to the programs that run now for the job.
func (c *children) signalAll(s unix.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.signal(s)
}

// signal sends a signal to the programs that are to end with the job.
func (c *children) signal(s unix.Signal) {
	for group, child := range c.running {
		if !child.remains {
			unix.Kill(-group, s)
		}
	}
}

// killAll ends every other process of the container, and returns when none is left.
func (c *children) killAll() {
	none := make(chan struct{})
	c.mu.Lock()
	c.ended, c.none = true, none
	c.mu.Unlock()
	unix.Kill(-1, unix.SIGKILL)
	c.reap() // there may be none already
	<-none
}

// isTerminating reports whether the job was asked to end.
func (c *children) isTerminating() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.terminating
}

// A runner starts programs as a user, with an environment.
type runner struct {
	children *children
	user     *user
	environ  []string
}

// with returns a runner whose programs have more variables.
func (r runner) with(more ...string) runner {
	r.environ = with(r.environ, more...)
	return r
}

// run starts a program found through PATH in a process group of its own, with the
// outputs given, and returns its exit code when it has ended.
func (r runner) run(argv []string, dir string, stdout, stderr *os.File) int {
	program, err := exec.LookPath(argv[0])
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		sayWhy("Use a job image that has it (IGLU_JOB_IMAGE).", "%s is not in the job image; its PATH is %s", argv[0], os.Getenv("PATH"))
		return exitNotFound
	}
	if err != nil {
		sayWhy("", "cannot run %s: %v", argv[0], err)
		return exitCannotRun
	}
	null, err := os.Open(os.DevNull) // standard input is the lifeline
	if err != nil {
		sayWhy("", "%v", err)
		return exitInternal
	}
	defer null.Close()
	exited, err := r.children.start(process{program: program, argv: argv, dir: dir, environ: r.environ,
		user: r.user, files: []*os.File{null, stdout, stderr}})
	if err != nil {
		sayWhy("", "cannot run %s: %v", argv[0], err)
		return exitCannotRun
	}
	return <-exited
}

// output runs a program and returns what it prints, without line ends.
func (r runner) output(argv ...string) (string, int) { return r.outputOf(argv, os.Stderr) }

// outputOf does the same. What the program says of its errors goes to stderr.
func (r runner) outputOf(argv []string, stderr *os.File) (string, int) {
	from, to, err := os.Pipe()
	if err != nil {
		say("cannot read from %s: %v", argv[0], err)
		return "", exitInternal
	}
	defer from.Close()
	printed := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(from)
		printed <- strings.TrimSpace(string(text))
	}()
	code := r.run(argv, "/", to, stderr)
	to.Close()
	return <-printed, code
}

// A process is a program that is to be started.
type process struct {
	program string // its path
	argv    []string
	dir     string
	environ []string
	user    *user      // nil: root
	files   []*os.File // its descriptors from 0 on
	remains bool       // when the job is asked to end
}

// start starts a program in a process group of its own and returns what gets its exit code.
func (c *children) start(p process) (<-chan int, error) {
	attributes := &unix.SysProcAttr{Setpgid: true}
	if p.user != nil && !p.user.isRoot() {
		attributes.Credential = &syscall.Credential{Uid: p.user.uid, Gid: p.user.gid}
	}
	// The lock keeps reap from seeing the child end before it is known.
	c.mu.Lock()
	defer c.mu.Unlock()
	exited := make(chan int, 1)
	if c.terminating || c.ended {
		exited <- exitTerminated
		return exited, nil
	}
	started, err := os.StartProcess(p.program, p.argv, &os.ProcAttr{Dir: p.dir, Env: p.environ, Files: p.files, Sys: attributes})
	if err != nil {
		return nil, err
	}
	c.running[started.Pid] = child{exited, p.remains}
	return exited, started.Release()
}
