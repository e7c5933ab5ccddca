// Package lab simulates several machines on one, each with its own container engine, for tests of a Docker
// Swarm. [New] makes a [Lab] of n nodes. A [Node] is a set of namespaces (network, mounts, processes, host
// name) in which dockerd runs with its defaults. A bridge in another network namespace connects the nodes.
// The machine's own network and engine are not changed. It needs root, iproute2 and util-linux.
//
// A lab ends when the process that made it ends: each set of namespaces has a first process that ends when
// its standard input is closed, and the kernel then kills the others.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// hubIP is the address of the bridge, the nodes' gateway. Nodes and jobs can reach servers on it.
	hubIP = "10.99.0.254"
	// startTimeout limits the start of an engine, and of a namespace's first process.
	startTimeout = time.Minute
)

// A Lab is a set of nodes that a bridge connects.
type Lab struct {
	Nodes  []*Node
	folder string
	hub    *space
}

// A Node is a simulated machine with an engine. Its name (n1, n2, …) is its host name.
type Node struct {
	Name string
	IP   string

	lab    *Lab
	folder string
	space  *space
	engine *exec.Cmd
}

// New makes a lab of n nodes with running engines. If it fails, it removes everything that it made.
func New(n int) (l *Lab, err error) {
	if err := removeDead(); err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", fmt.Sprintf("iglu-lab-%d-", os.Getpid()))
	if err != nil {
		return nil, err
	}
	l = &Lab{folder: folder}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Remove())
		}
	}()
	if l.hub, err = newSpace(false, "true"); err != nil {
		return nil, err
	}
	if err := l.inHub("ip link set lo up; ip link add br0 type bridge; ip link set br0 up; ip address add " + hubIP + "/24 dev br0"); err != nil {
		return nil, err
	}
	for i := range n {
		if err := l.addNode(i + 1); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *Lab) addNode(i int) (err error) {
	n := &Node{Name: fmt.Sprint("n", i), IP: fmt.Sprint("10.99.0.", i), lab: l}
	n.folder = filepath.Join(l.folder, n.Name)
	l.Nodes = append(l.Nodes, n)
	// The engine has its files at the usual paths, and does not see those of other engines.
	script := "hostname " + n.Name
	for folder, path := range map[string]string{"run": "/run", "lib": "/var/lib/docker", "etc": "/etc/docker"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(n.folder, folder), 0o711), os.MkdirAll(path, 0o711)); err != nil {
			return err
		}
		script += "; mount --bind " + filepath.Join(n.folder, folder) + " " + path
	}
	if n.space, err = newSpace(true, script); err != nil {
		return err
	}
	pid := n.space.first.Process.Pid
	if err := errors.Join(
		l.inHub(fmt.Sprintf("ip link add %s type veth peer name eth0 netns %d; ip link set %s master br0; ip link set %s up", n.Name, pid, n.Name, n.Name)),
		run(n.space.in("sh", "-ec", "ip link set lo up; ip address add "+n.IP+"/24 dev eth0; ip link set eth0 up; ip route add default via "+hubIP)),
	); err != nil {
		return err
	}
	return n.Start()
}

// Swarm joins the nodes to a swarm. The first node is the manager.
func (l *Lab) Swarm() error {
	manager := l.Nodes[0]
	if _, err := manager.Docker("swarm", "init", "--advertise-addr", manager.IP, "--default-addr-pool", "10.98.0.0/16"); err != nil {
		return err
	}
	token, err := manager.Docker("swarm", "join-token", "--quiet", "worker")
	for _, n := range l.Nodes[1:] {
		if err == nil {
			_, err = n.Docker("swarm", "join", "--advertise-addr", n.IP, "--token", token, manager.IP+":2377")
		}
	}
	return err
}

// Load copies images from the machine's engine to all nodes, because the nodes cannot reach a registry.
func (l *Lab) Load(images ...string) error {
	archive := filepath.Join(l.folder, "images.tar")
	defer os.Remove(archive)
	if err := run(exec.Command("docker", append([]string{"save", "--output", archive}, images...)...)); err != nil {
		return err
	}
	for _, n := range l.Nodes {
		if _, err := n.Docker("load", "--input", archive); err != nil {
			return err
		}
	}
	return nil
}

// Remove ends everything that runs in the lab, and removes it.
func (l *Lab) Remove() error {
	for _, n := range l.Nodes {
		n.space.end()
		if n.engine != nil {
			n.engine.Wait()
		}
	}
	l.hub.end()
	return errors.Join(l.removeCgroups(), os.RemoveAll(l.folder))
}

// removeDead removes the files of labs whose process was killed.
func removeDead() (err error) {
	folders, _ := filepath.Glob(filepath.Join(os.TempDir(), "iglu-lab-*-*"))
	for _, folder := range folders {
		maker := strings.Split(filepath.Base(folder), "-")[2]
		if _, gone := os.Stat("/proc/" + maker); gone != nil {
			err = errors.Join(err, (&Lab{folder: folder}).Remove())
		}
	}
	return err
}

// removeCgroups removes the cgroups that the engines have made for containers, of version 1 or 2.
func (l *Lab) removeCgroups() (err error) {
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		roots, _ := filepath.Glob(pattern + filepath.Base(l.folder) + "-*")
		for _, root := range roots {
			var folders []string
			filepath.WalkDir(root, func(path string, d fs.DirEntry, _ error) error {
				if d != nil && d.IsDir() {
					folders = append(folders, path)
				}
				return nil
			})
			slices.Reverse(folders) // the inner ones first
			for _, folder := range folders {
				// There is no event for the end of the processes in a cgroup.
				err = errors.Join(err, poll(func() error { return ignore(unix.Rmdir(folder), unix.ENOENT) }))
			}
		}
	}
	return err
}

func ignore(err, known error) error {
	if errors.Is(err, known) {
		return nil
	}
	return err
}

// Dial connects to an address in the lab, such as that of a node.
func (l *Lab) Dial(ctx context.Context, address string) (conn net.Conn, err error) {
	inErr := l.hub.do(func() { conn, err = new(net.Dialer).DialContext(ctx, "tcp", address) })
	return conn, errors.Join(inErr, err)
}

// Listen listens in the lab on a free port that nodes and their containers can reach.
func (l *Lab) Listen() (listener net.Listener, err error) {
	inErr := l.hub.do(func() { listener, err = net.Listen("tcp", hubIP+":0") })
	return listener, errors.Join(inErr, err)
}

// DialFrom connects to an address from the network of a container of the node.
func (n *Node) DialFrom(ctx context.Context, container, address string) (conn net.Conn, err error) {
	pid, err := n.Docker("inspect", "--format", "{{.State.Pid}}", container)
	if err != nil {
		return nil, err
	}
	// The process id is that of the node's PID namespace, so it is looked up in the node's /proc.
	namespace := fmt.Sprintf("/proc/%d/root/proc/%s/ns/net", n.space.first.Process.Pid, pid)
	inErr := inNetwork(namespace, func() { conn, err = new(net.Dialer).DialContext(ctx, "tcp", address) })
	return conn, errors.Join(inErr, err)
}

func (l *Lab) inHub(script string) error { return run(l.hub.in("sh", "-ec", script)) }

// Host returns the address of the node's engine in the format of DOCKER_HOST.
func (n *Node) Host() string { return "unix://" + filepath.Join(n.folder, "run/docker.sock") }

// Docker runs the docker command on the node's engine and returns its output.
func (n *Node) Docker(args ...string) (string, error) {
	command := exec.Command("docker", append([]string{"--host", n.Host()}, args...)...)
	output, err := command.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%s: docker %q: %w: %s", n.Name, args, err, exit.Stderr)
	}
	return strings.TrimSpace(string(output)), err
}

// Start starts the node's engine, for the first time or after Kill, and waits until it answers.
func (n *Node) Start() error {
	log, err := os.OpenFile(filepath.Join(n.folder, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	n.engine = n.space.in("dockerd", "--cgroup-parent", "/"+filepath.Base(n.lab.folder)+"-"+n.Name)
	n.engine.Stdout, n.engine.Stderr = log, log
	if err := n.engine.Start(); err != nil {
		return err
	}
	if err := poll(func() error { _, err := n.Docker("version"); return err }); err != nil {
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("engine of %s does not start: %w\n%s", n.Name, err, text)
	}
	return nil
}

// Kill ends the engine with SIGKILL. Its containers keep running.
func (n *Node) Kill() error {
	err := run(n.space.in("sh", "-ec", "kill -9 $(cat /run/docker.pid)"))
	n.engine.Wait()
	return err
}

// Cut disconnects the node from all others. Open connections are not closed.
func (n *Node) Cut() error { return n.lab.inHub("ip link set " + n.Name + " down") }

// Heal connects the node again after Cut.
func (n *Node) Heal() error { return n.lab.inHub("ip link set " + n.Name + " up") }

// A space is a set of namespaces. It exists as long as its first process.
type space struct {
	first *exec.Cmd
	alive io.Closer
	kinds []string // as flags of nsenter
}

// machineKinds are the namespaces that a machine has in addition to the network.
var machineKinds = []string{"--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"}

// newSpace makes a network namespace, or the namespaces of a whole machine, and runs a script in it.
func newSpace(isMachine bool, script string) (*space, error) {
	args := []string{"--net"}
	if isMachine {
		args = append(args, machineKinds...)
	}
	// The first process is a shell, because it must reap processes whose parents have ended.
	args = append(args, "sh", "-ec", script+"; exec 3<&0; cat <&3 >/dev/null & echo made; wait $!")
	s := &space{first: exec.Command("unshare", args...), kinds: []string{"--net"}}
	stdin, err := s.first.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := s.first.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.first.Stderr = os.Stderr
	if err := s.first.Start(); err != nil {
		return nil, err
	}
	s.alive = stdin
	if isMachine {
		s.kinds = append(s.kinds, "--mount", "--uts", fmt.Sprintf("--pid=/proc/%d/ns/pid_for_children", s.first.Process.Pid))
	}
	timer := time.AfterFunc(startTimeout, func() { s.first.Process.Kill() })
	defer timer.Stop()
	if _, err := io.ReadFull(stdout, make([]byte, len("made\n"))); err != nil {
		s.end()
		return nil, fmt.Errorf("make namespaces: %w", err)
	}
	return s, nil
}

// in returns a command that runs in the namespaces.
func (s *space) in(command ...string) *exec.Cmd {
	args := append([]string{"--target", fmt.Sprint(s.first.Process.Pid)}, s.kinds...)
	return exec.Command("nsenter", append(append(args, "--"), command...)...)
}

// do calls f in the network namespace.
func (s *space) do(f func()) error {
	return inNetwork(fmt.Sprintf("/proc/%d/ns/net", s.first.Process.Pid), f)
}

// inNetwork calls f on a thread in a network namespace. Sockets that f opens stay in that namespace. The thread
// ends after the call.
func inNetwork(name string, f func()) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // without unlocking it, so that the thread ends
		var namespace *os.File
		if namespace, err = os.Open(name); err != nil {
			return
		}
		defer namespace.Close()
		if err = unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err == nil {
			f()
		}
	}()
	<-done
	return err
}

// end ends all processes in the namespaces, and so the namespaces.
func (s *space) end() {
	if s != nil {
		s.alive.Close()
		s.first.Wait()
	}
}

func run(command *exec.Cmd) error {
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%q: %w: %s", command.Args, err, output)
	}
	return nil
}

// Await waits until a condition on the swarm holds, or returns an error after the timeout. It polls, because
// an engine sends no events about a service's tasks on other nodes.
func (l *Lab) Await(timeout time.Duration, holds func() bool) error {
	return pollFor(timeout, func() error {
		if !holds() {
			return fmt.Errorf("the condition does not hold after %s", timeout)
		}
		return nil
	})
}

// poll calls a function until it succeeds. It is for conditions without an event to wait for.
func poll(f func() error) error { return pollFor(startTimeout, f) }

func pollFor(timeout time.Duration, f func() error) error {
	for end := time.Now().Add(timeout); ; time.Sleep(50 * time.Millisecond) {
		err := f()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}
