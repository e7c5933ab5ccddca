// Attack tries to break out of a job's container, for tests of the isolation. Each attempt is a subcommand.
// It exits with 0 if the attempt succeeds. Otherwise it prints the reason and exits with 1.
package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempts are the attempts by name. Some need an argument from the test.
var attempts = map[string]func(arg string) error{
	"proc-sys":   func(string) error { return rewrite("/proc/sys/kernel/core_pattern") },
	"mount":      func(string) error { return unix.Mount("attack", "/tmp", "tmpfs", 0, "") },
	"mount-proc": func(string) error { return unix.Mount("proc", "/tmp", "proc", 0, "") },
	"user-namespace": func(string) error {
		child := exec.Command("/proc/self/exe", "nothing")
		child.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
		return child.Run()
	},
	"network-namespace": func(string) error { return unix.Unshare(unix.CLONE_NEWNET) },
	"nothing":           func(string) error { return nil },
	"raw-socket": func(string) error {
		_, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
		return err
	},
	"packet-socket": func(string) error {
		_, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		return err
	},
	"vsock": func(string) error {
		_, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
		return err
	},
	"io-uring": func(string) error {
		var parameters [120]byte // struct io_uring_params
		_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&parameters)), 0)
		if errno != 0 {
			return errno
		}
		return nil
	},
	"device": openDevice,
	"privileges": func(string) error {
		flag, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
		if flag == 1 {
			err = fmt.Errorf("programs with the setuid bit gain nothing")
		}
		return err
	},
	"environ": func(string) error { return readAll("/proc/1/environ") },
	"memory-of-1": func(string) error {
		_, err := os.OpenFile("/proc/1/mem", os.O_RDWR, 0)
		return err
	},
	"kernel-log": func(string) error {
		_, err := unix.Klogctl(3, make([]byte, 4096)) // SYSLOG_ACTION_READ_ALL
		return err
	},
	"inotify": func(string) error {
		_, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		return err
	},
	"engine-socket": dialEngine,
	"dial":          dial,
	"agent":         useAgent,
}

func main() {
	name, arg := os.Args[1], strings.Join(os.Args[2:], "")
	switch name {
	case "serve":
		serve()
	case "count":
		code, _ := strconv.Atoi(arg)
		count(code)
	case "linger":
		fmt.Println("lingering")
		time.Sleep(time.Hour)
	case "fork-bomb":
		forkBomb()
	case "memory-hog":
		memoryHog()
	case "bereaved-parent":
		bereavedParent()
	case "tmp-hog":
		tmpHog()
	case "inotify-hog":
		inotifyHog()
	case "each":
		each(os.Args[2:])
	}
	if err := attempts[name](arg); err != nil {
		fmt.Printf("%s: refused: %v\n", name, err)
		os.Exit(1)
	}
	fmt.Printf("%s: succeeded\n", name)
}

// each makes several attempts, each in its own process: "mount", or with an argument "dial,ADDRESS".
func each(attempts []string) {
	for _, attempt := range attempts {
		name, arg, _ := strings.Cut(attempt, ",")
		one := exec.Command("/proc/self/exe", name, arg)
		one.Stdout, one.Stderr = os.Stdout, os.Stderr
		one.Run() // it prints its result
	}
	os.Exit(0)
}

// rewrite opens a file for writing and writes its own content back. It writes nothing if the file cannot be read.
func rewrite(name string) error {
	text, _ := os.ReadFile(name)
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if len(text) > 0 {
		_, err = f.Write(text)
	}
	return err
}

func readAll(name string) error {
	text, err := os.ReadFile(name)
	if err == nil && len(text) == 0 {
		err = fmt.Errorf("the file is empty")
	}
	return err
}

// openDevice makes a device file for the kernel's log and opens it.
func openDevice(string) error {
	const name, major, minor = "/attack-kmsg", 1, 11
	if err := unix.Mknod(name, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return err
	}
	f, err := os.Open(name)
	if err == nil {
		err = f.Close()
	}
	return err
}

func dialEngine(string) error {
	var err error
	for _, name := range []string{"/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock"} {
		var conn net.Conn
		if conn, err = net.Dial("unix", name); err == nil {
			return conn.Close()
		}
	}
	return err
}

// dial sends a request to a bystander: see serve.
func dial(address string) error {
	client := http.Client{Timeout: 2 * time.Second}
	response, err := client.Get("http://" + address)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.ReadAll(response.Body)
	return err
}

// dialTimeout is how long an attempt waits for a connection that is neither accepted nor refused.
const dialTimeout = 5 * time.Second

// useAgent tries to get the engine's version from an agent at an address, or at a port of the machine, in
// every way that is possible without a key.
func useAgent(address string) error {
	if !strings.Contains(address, ":") {
		machine, err := gateway()
		if err != nil {
			return err
		}
		address = net.JoinHostPort(machine, address)
	}
	own, err := selfSigned()
	if err != nil {
		return err
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	for _, way := range []struct {
		name string
		dial func() (net.Conn, error)
	}{
		{"plain HTTP", func() (net.Conn, error) { return dialer.Dial("tcp", address) }},
		{"TLS without a key", func() (net.Conn, error) {
			return tls.DialWithDialer(dialer, "tcp", address, &tls.Config{InsecureSkipVerify: true})
		}},
		{"TLS with a key of its own", func() (net.Conn, error) {
			return tls.DialWithDialer(dialer, "tcp", address, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{own}})
		}},
	} {
		var got []byte
		conn, err := way.dial()
		if err == nil {
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(conn, "GET /version HTTP/1.0\r\nHost: engine\r\n\r\n")
			got, err = io.ReadAll(conn)
			conn.Close()
		}
		if strings.Contains(string(got), "ApiVersion") {
			return nil
		}
		if conn == nil { // the agent was not reached, so the attempt proves nothing
			return fmt.Errorf("%s: %w", way.name, err)
		}
		fmt.Printf("agent: %s: refused by the agent (%q, %v)\n", way.name, got, err)
	}
	return errors.New("the agent")
}

// gateway returns the machine's address on the container's network.
func gateway() (string, error) {
	text, err := os.ReadFile("/proc/net/route")
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		var ip [4]byte
		if n, _ := fmt.Sscanf(fields[2], "%02x%02x%02x%02x", &ip[3], &ip[2], &ip[1], &ip[0]); n == 4 && fields[1] == "00000000" {
			return net.IP(ip[:]).String(), nil
		}
	}
	return "", errors.Join(err, errors.New("no way out of the container"))
}

func selfSigned() (tls.Certificate, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	return tls.Certificate{Certificate: [][]byte{cert}, PrivateKey: private}, err
}

// serve runs an HTTP server that is not part of the attack, the bystander, until it is killed.
func serve() {
	fmt.Println(http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "bystander")
	})))
	os.Exit(1)
}

// count prints for a while and exits with a code.
func count(code int) {
	for n := range 60 {
		fmt.Println(n)
		time.Sleep(5 * time.Millisecond)
	}
	os.Exit(code)
}

// forkBomb starts itself until that fails. Each child does the same.
func forkBomb() {
	for {
		if err := exec.Command("/proc/self/exe", "fork-bomb").Start(); err != nil {
			fmt.Printf("no more than %d tasks: %v\n", countTasks(), err)
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// countTasks returns the number of the container's processes and threads. It reads the cgroup, of version 2
// or 1, because a count of /proc is wrong while processes start and end.
func countTasks() (n int) {
	for _, name := range []string{"/sys/fs/cgroup/pids.current", "/sys/fs/cgroup/pids/pids.current"} {
		if text, err := os.ReadFile(name); err == nil {
			fmt.Sscan(string(text), &n)
		}
	}
	return n
}

// taken keeps memory from being freed.
var taken [][]byte

// memoryHog allocates memory until it is killed.
func memoryHog() {
	for {
		piece := make([]byte, 16<<20)
		for i := range piece {
			piece[i] = 1
		}
		taken = append(taken, piece)
	}
}

// bereavedParent starts a child that is killed because it runs out of memory, and exits with 3.
func bereavedParent() {
	fmt.Println("the child ended:", exec.Command("/proc/self/exe", "memory-hog").Run())
	os.Exit(3)
}

// tmpHog fills /tmp and then exits with 4, if it gets that far.
func tmpHog() {
	f, err := os.Create("/tmp/hog")
	for written := 0; err == nil; written += 1 << 20 {
		if _, err = f.Write(make([]byte, 1<<20)); err != nil {
			fmt.Printf("/tmp is full after %d MiB: %v\n", written>>20, err)
		}
	}
	os.Exit(4)
}

// inotifyHog opens all inotify instances that its user may have, and keeps them.
func inotifyHog() {
	for taken, told := 0, false; ; {
		if _, err := unix.InotifyInit1(unix.IN_CLOEXEC); err == nil {
			taken++
			continue
		}
		if !told {
			fmt.Println("inotify-hog: took", taken)
			told = true
		}
		time.Sleep(10 * time.Millisecond) // also takes instances that others close
	}
}
