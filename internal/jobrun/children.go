package jobrun

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"sync"
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
	running     map[int]chan<- int // the process groups of programs, and what gets their exit codes
	terminating bool               // nothing more is started
}

// newChildren returns one that calls stop when the job is asked to end.
func newChildren(stop func()) *children {
	c := &children{signals: make(chan os.Signal, 16), done: make(chan struct{}), stop: stop, running: make(map[int]chan<- int)}
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
		if err != nil || pid == 0 {
			return
		}
		if exited, ok := c.running[pid]; ok {
			delete(c.running, pid)
			exited <- exitCode(status)
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
	for group := range c.running {
		unix.Kill(-group, unix.SIGTERM)
	}
	time.AfterFunc(killDelay, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for group := range c.running {
			unix.Kill(-group, unix.SIGKILL)
		}
	})
}

// isTerminating reports whether the job was asked to end.
func (c *children) isTerminating() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.terminating
}

// run starts a program found through PATH in a process group of its own, with the
// outputs given, and returns its exit code when it has ended.
func (c *children) run(argv []string, dir string, environ []string, stdout, stderr *os.File) int {
	program, err := exec.LookPath(argv[0])
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		say("%s is not in the job image; its PATH is %s", argv[0], os.Getenv("PATH"))
		return exitNotFound
	}
	if err != nil {
		say("cannot run %s: %v", argv[0], err)
		return exitCannotRun
	}
	null, err := os.Open(os.DevNull) // standard input is the lifeline
	if err != nil {
		say("%v", err)
		return exitInternal
	}
	defer null.Close()
	exited, err := c.start(program, argv, dir, environ, null, stdout, stderr)
	if err != nil {
		say("cannot run %s: %v", argv[0], err)
		return exitCannotRun
	}
	return <-exited
}

// start starts a program and returns what gets its exit code.
func (c *children) start(program string, argv []string, dir string, environ []string, stdin, stdout, stderr *os.File) (<-chan int, error) {
	// The lock keeps reap from seeing the child end before it is known.
	c.mu.Lock()
	defer c.mu.Unlock()
	exited := make(chan int, 1)
	if c.terminating {
		exited <- exitTerminated
		return exited, nil
	}
	process, err := os.StartProcess(program, argv, &os.ProcAttr{
		Dir:   dir,
		Env:   environ,
		Files: []*os.File{stdin, stdout, stderr},
		Sys:   &unix.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return nil, err
	}
	c.running[process.Pid] = exited
	return exited, process.Release()
}
