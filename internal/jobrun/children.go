package jobrun

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// killDelay is how long a program may take to end after SIGTERM. It is shorter than
// the 10 s that engines give a container by default.
const killDelay = 8 * time.Second

// children starts programs and waits for them. PID 1 inherits every orphan of the container, so this
// is the only place that calls wait, and it waits for any child: os/exec would compete for the exit
// codes. It passes SIGTERM and SIGINT on to the running programs.
type children struct {
	ends   chan os.Signal // SIGCHLD; a channel of its own, because so many can come that others would be lost
	asks   chan os.Signal // SIGTERM and SIGINT
	closed chan struct{}  // closed by close
	done   chan struct{}  // closed when the goroutine that watches signals has ended
	stop   func()         // called when the job is asked to end

	mu          sync.Mutex
	running     map[int]child // by process group
	terminating bool          // the job was asked to end: no more programs are started
	ended       bool          // the job has ended: no more programs are started
	none        chan struct{} // closed when no process is left; nil: killAll does not wait
}

// A child is a running program.
type child struct {
	exited  chan<- int // receives its exit code
	remains bool       // it keeps running when the job is asked to end
}

// newChildren returns a children that calls stop when the job is asked to end.
func newChildren(stop func()) *children {
	c := &children{ends: make(chan os.Signal, 1), asks: make(chan os.Signal, 1), closed: make(chan struct{}), done: make(chan struct{}),
		stop: stop, running: make(map[int]child)}
	signal.Notify(c.ends, unix.SIGCHLD)
	signal.Notify(c.asks, unix.SIGTERM, unix.SIGINT)
	go c.watch()
	return c
}

func (c *children) close() {
	signal.Stop(c.ends)
	signal.Stop(c.asks)
	close(c.closed)
	<-c.done
}

func (c *children) watch() {
	defer close(c.done)
	for {
		select {
		case <-c.ends:
			c.reap()
		case <-c.asks:
			c.terminate()
		case <-c.closed:
			return
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

// exitCode returns a status as a shell would report it.
func exitCode(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// terminate sends SIGTERM to the running programs, and SIGKILL after killDelay.
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

// signalAll sends a signal to the job's running programs, but not to those that remain.
func (c *children) signalAll(s unix.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.signal(s)
}

// signal does the same. c.mu is held.
func (c *children) signal(s unix.Signal) {
	for group, child := range c.running {
		if !child.remains {
			unix.Kill(-group, s)
		}
	}
}

// killAll kills every other process of the container, and returns when none is left.
func (c *children) killAll() {
	none := make(chan struct{})
	c.mu.Lock()
	c.ended, c.none = true, none
	c.mu.Unlock()
	unix.Kill(-1, unix.SIGKILL)
	c.reap() // there may be no process, and so no SIGCHLD
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

// run finds a program in PATH, or a name with a slash in dir, as a shell does. It runs the program in a process group of
// its own, and returns its exit code.
func (r runner) run(argv []string, dir string, stdout, stderr *os.File) int {
	name, isPath := argv[0], strings.Contains(argv[0], "/")
	if isPath && !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	program, err := exec.LookPath(name)
	if isPath && errors.Is(err, fs.ErrNotExist) {
		sayWhy("Check buildOptions.command.", "there is no %s", name)
		return exitNotFound
	}
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

// outputOf does the same, with another standard error.
func (r runner) outputOf(argv []string, stderr *os.File) (string, int) {
	var printed bytes.Buffer
	pipe, err := newTee(&printed)
	if err != nil {
		say("cannot read from %s: %v", argv[0], err)
		return "", exitInternal
	}
	code := r.run(argv, "/", pipe.in, stderr)
	pipe.close()
	return strings.TrimSpace(printed.String()), code
}

// A process has the parameters of a program to start.
type process struct {
	program string // its path
	argv    []string
	dir     string
	environ []string
	user    *user      // nil: root
	files   []*os.File // its descriptors from 0 on
	remains bool       // it keeps running when the job is asked to end
}

// start starts a program in a process group of its own. The returned channel receives its exit code.
func (c *children) start(p process) (<-chan int, error) {
	attributes := &unix.SysProcAttr{Setpgid: true}
	if p.user != nil && !p.user.isRoot() {
		attributes.Credential = &syscall.Credential{Uid: p.user.uid, Gid: p.user.gid}
	}
	// With the lock, reap cannot find the ended child before it is in c.running.
	c.mu.Lock()
	defer c.mu.Unlock()
	exited := make(chan int, 1)
	if c.terminating || c.ended {
		exited <- exitTerminated
		return exited, nil
	}
	files, closeAll := withOutputsApart(p.files)
	defer closeAll()
	started, err := os.StartProcess(p.program, p.argv, &os.ProcAttr{Dir: p.dir, Env: p.environ, Files: files, Sys: attributes})
	if err != nil {
		return nil, err
	}
	c.running[started.Pid] = child{exited, p.remains}
	return exited, started.Release()
}

// withOutputsApart opens those of a program's outputs that are pipes once more for it. A program can make its output
// non-blocking, as ssh does: O_NONBLOCK is a flag of the open file (open(2)), and so of all that share it. If this
// program shared it, what it cannot write at once would be lost.
func withOutputsApart(files []*os.File) (apart []*os.File, closeAll func()) {
	apart = slices.Clone(files)
	var opened []*os.File
	for i := unix.Stdout; i <= unix.Stderr && i < len(files); i++ {
		if file, err := openAgain(files[i]); err == nil {
			apart[i], opened = file, append(opened, file)
		} // else it is no pipe, or it cannot be opened, and is shared
	}
	return apart, func() {
		for _, file := range opened {
			file.Close()
		}
	}
}

// openAgain opens a pipe that can be written to.
func openAgain(pipe *os.File) (*os.File, error) {
	if info, err := pipe.Stat(); err != nil || info.Mode()&fs.ModeNamedPipe == 0 {
		return nil, errors.Join(errors.New("no pipe"), err)
	}
	name := "/proc/self/fd/" + strconv.Itoa(int(pipe.Fd()))
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CLOEXEC, 0) // os.OpenFile would make it non-blocking
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
