// Package lab makes several machines of one, each with a container engine of its own: what a Docker Swarm of
// three nodes looks like, for tests. A node is a set of namespaces (network, mounts, processes, host name) in
// which dockerd runs with its own defaults; a bridge in one more network namespace joins them. Nothing of the
// machine's own network or engine is touched. It needs root, iproute2 and util-linux.
//
// All of it ends with the process that has made it: each set of namespaces has a first process that ends when
// its standard input does, and the kernel ends all others with it.
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
	// hubIP is the address of the bridge, and the nodes' way out: what listens there, nodes and jobs reach.
	hubIP = "10.99.0.254"
	// startTimeout bounds the start of an engine, and of a namespace's first process.
	startTimeout = time.Minute
)

// A Lab is some nodes, which a bridge joins.
type Lab struct {
	Nodes  []*Node
	folder string
	hub    *space
}

// A Node is a machine with an engine. Its name, n1 and so on, is its host name.
type Node struct {
	Name string
	IP   string

	lab    *Lab
	folder string
	space  *space
	engine *exec.Cmd
}

// New makes a lab of n nodes, whose engines run. If it fails, nothing is left.
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
	// The engine finds its own files where engines have them, and none of another's.
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

// Swarm joins the nodes to a swarm. The first manages it.
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

// Load copies images of the machine's own engine to all nodes: no registry is in reach there.
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

// Remove ends all that runs in the lab, and removes it.
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

// removeDead removes the files of labs whose maker was killed.
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

// removeCgroups removes what the engines have made for containers, in either version of the kernel's tree.
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
				// Nothing tells when the kernel is done with the processes that were in there.
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

// Dial connects to an address of the lab, such as a node's.
func (l *Lab) Dial(ctx context.Context, address string) (conn net.Conn, err error) {
	inErr := l.hub.do(func() { conn, err = new(net.Dialer).DialContext(ctx, "tcp", address) })
	return conn, errors.Join(inErr, err)
}

// Listen listens on a free port at which nodes and their containers reach the lab's maker.
func (l *Lab) Listen() (listener net.Listener, err error) {
	inErr := l.hub.do(func() { listener, err = net.Listen("tcp", hubIP+":0") })
	return listener, errors.Join(inErr, err)
}

// DialFrom connects to an address as a program in a container of the node does, by the container's network.
func (n *Node) DialFrom(ctx context.Context, container, address string) (conn net.Conn, err error) {
	pid, err := n.Docker("inspect", "--format", "{{.State.Pid}}", container)
	if err != nil {
		return nil, err
	}
	// The number is that of the node's own processes, of which its /proc knows.
	namespace := fmt.Sprintf("/proc/%d/root/proc/%s/ns/net", n.space.first.Process.Pid, pid)
	inErr := inNetwork(namespace, func() { conn, err = new(net.Dialer).DialContext(ctx, "tcp", address) })
	return conn, errors.Join(inErr, err)
}

func (l *Lab) inHub(script string) error { return run(l.hub.in("sh", "-ec", script)) }

// Host returns where the node's engine listens, as in DOCKER_HOST.
func (n *Node) Host() string { return "unix://" + filepath.Join(n.folder, "run/docker.sock") }

// Docker runs Docker's own client on the node's engine, and returns what it prints.
func (n *Node) Docker(args ...string) (string, error) {
	command := exec.Command("docker", append([]string{"--host", n.Host()}, args...)...)
	output, err := command.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%s: docker %q: %w: %s", n.Name, args, err, exit.Stderr)
	}
	return strings.TrimSpace(string(output)), err
}

// Start starts the node's engine, also one that was killed, and waits until it answers.
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
		return fmt.Errorf("the engine of %s does not start: %w\n%s", n.Name, err, text)
	}
	return nil
}

// Kill ends the engine with SIGKILL. Its containers go on.
func (n *Node) Kill() error {
	err := run(n.space.in("sh", "-ec", "kill -9 $(cat /run/docker.pid)"))
	n.engine.Wait()
	return err
}

// Cut cuts the node off from all others. Nobody is told.
func (n *Node) Cut() error { return n.lab.inHub("ip link set " + n.Name + " down") }

// Heal ends what Cut has begun.
func (n *Node) Heal() error { return n.lab.inHub("ip link set " + n.Name + " up") }

// A space is a set of namespaces, which live for as long as its first process.
type space struct {
	first *exec.Cmd
	alive io.Closer
	kinds []string // as nsenter wants them
}

// machineKinds are the namespaces that make a machine of a network.
var machineKinds = []string{"--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"}

// newSpace makes a network namespace, or those of a whole machine, in which a script has run.
func newSpace(isMachine bool, script string) (*space, error) {
	args := []string{"--net"}
	if isMachine {
		args = append(args, machineKinds...)
	}
	// A shell takes leave of processes whose parents have ended, as the first of a machine must.
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

// inNetwork calls f on a thread in a network namespace. What f opens stays there; the thread ends with it.
func inNetwork(name string, f func()) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock it: so the thread ends
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

// end ends all processes of the namespaces, and with them the namespaces.
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

// Await waits until a condition on Swarm holds, at most for the timeout. It asks again and again: no engine
// sends events of what the others do for a service.
func (l *Lab) Await(timeout time.Duration, holds func() bool) error {
	return pollFor(timeout, func() error {
		if !holds() {
			return fmt.Errorf("still not so after %s", timeout)
		}
		return nil
	})
}

// poll calls what nothing tells of until it succeeds: the start of an engine, or the end of a cgroup.
func poll(f func() error) error { return pollFor(startTimeout, f) }

func pollFor(timeout time.Duration, f func() error) error {
	for end := time.Now().Add(timeout); ; time.Sleep(50 * time.Millisecond) {
		err := f()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}
