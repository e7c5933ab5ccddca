package wsapi

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/wsapi/connlimit"
)

// tcpPair returns both ends of a connection on the loopback address.
func tcpPair(t *testing.T) (server, client *net.TCPConn) {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err = net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = listener.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server, client
}

// control does something with a connection's socket.
func control(t *testing.T, conn *net.TCPConn, do func(fd int) error) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var doErr error
	if err := errors.Join(raw.Control(func(fd uintptr) { doErr = do(int(fd)) }), doErr); err != nil {
		t.Fatal(err)
	}
}

// cutOff prevents one end of a connection from receiving packets, so that it acknowledges none, as if its machine had
// disappeared. Unlike a filter on the socket with some kernels, it needs no privileges.
func cutOff(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	const hops = 255 // more than a packet is sent with
	control(t, conn, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MINTTL, hops) })
}

// fill writes to a connection until the kernel takes no more, and returns how much that was.
func fill(t *testing.T, conn *net.TCPConn) (written int) {
	t.Helper()
	chunk := make([]byte, 64<<10)
	control(t, conn, func(fd int) error {
		for {
			n, err := unix.Write(fd, chunk)
			if errors.Is(err, unix.EAGAIN) {
				return nil
			}
			if err != nil {
				return err
			}
			written += n
		}
	})
	return written
}

// A oneListener accepts a connection that there is already.
type oneListener struct {
	net.Listener
	conn net.Conn
}

func (l *oneListener) Accept() (net.Conn, error) { return l.conn, nil }

// TestTCPInfoOfVanished writes to a machine that does not answer.
func TestTCPInfoOfVanished(t *testing.T) {
	server, client := tcpPair(t)
	cutOff(t, client)
	const timeout = 1500 * time.Millisecond // after which the kernel ends the connection
	control(t, server, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds()))
	})
	if _, err := io.WriteString(server, "anybody there?"); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Fatalf("the read ends with %v", err)
	}
	state, ok := tcpInfo(server)
	if !ok || state.tries == 0 || state.silence < timeout/2 || state.silence > time.Hour || state.taken != 0 {
		t.Errorf("of a machine that does not answer, the kernel says %+v, %t", state, ok)
	}
}

// TestTCPInfoOfStalled writes to a client that does not read: its machine answers, and accepts what fits into its buffers.
func TestTCPInfoOfStalled(t *testing.T) {
	server, client := tcpPair(t)
	if state, ok := tcpInfo(server); !ok || state.waiting || state.tries != 0 {
		t.Errorf("before all, the kernel says %+v, %t", state, ok)
	}
	written := fill(t, server)
	state, ok := tcpInfo(server)
	if !ok || !state.waiting || state.taken == 0 || state.taken >= uint64(written) || state.silence > answerTimeout {
		t.Errorf("of a client that does not read, the kernel says %+v, %t", state, ok)
	}

	// Its answer, when it has read all, says that it has all.
	if _, err := io.CopyN(io.Discard, client, int64(written)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte("!")); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	// The same where the connection limit and TLS wrap it.
	limited, err := connlimit.Listen(&oneListener{conn: server}, 1).Accept()
	if err != nil {
		t.Fatal(err)
	}
	wrapped := tls.Server(limited, &tls.Config{})
	for _, conn := range []net.Conn{server, wrapped} {
		state, ok = tcpInfo(conn)
		if !ok || state.waiting || state.taken != uint64(written) || state.tries != 0 {
			t.Errorf("of one that has read all %d bytes, the kernel says %+v, %t", written, state, ok)
		}
	}
}

// TestTCPInfoOfNone asks for connections that the kernel knows nothing of.
func TestTCPInfoOfNone(t *testing.T) {
	server, _ := tcpPair(t)
	server.Close()
	inMemory, other := net.Pipe()
	inMemory.Close()
	other.Close()
	folder := t.TempDir()
	unixListener, err := net.Listen("unix", folder+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer unixListener.Close()
	local, err := net.Dial("unix", folder+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	for name, conn := range map[string]net.Conn{"closed": server, "in memory": inMemory, "local": local} {
		if state, ok := tcpInfo(conn); ok {
			t.Errorf("%s: %+v", name, state)
		}
	}
}

// TestKernelKeepsTheEnd uses a client that reads nothing until its job has ended and the server has found several times
// that the kernel still has some data. The client gets all of it, although it sends more.
func TestKernelKeepsTheEnd(t *testing.T) {
	for name, overTLS := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			wrote, asked := make(chan error, 1), make(chan struct{}, 1000)
			var f *fixture
			if overTLS {
				f = serveTCPWithTLS(t, flooding(wrote))
			} else {
				f = serveTCP(t, flooding(wrote))
			}
			f.server.tcpInfo = func(conn net.Conn) (tcpState, bool) {
				state, ok := tcpInfo(conn)
				if !ok {
					t.Error("the kernel says nothing")
				}
				if state.waiting {
					asked <- struct{}{}
				}
				return state, ok
			}
			c := f.dial()
			c.send(job())
			if err := <-wrote; err != nil { // the kernel has it, or will have it
				t.Fatal(err)
			}
			for range 5 {
				<-asked
			}
			c.send("{}")
			got := c.finish()
			if n := len(got.messages); n != floodLines+2 || got.messages[n-1] != succeeded || got.code != websocket.CloseNormalClosure {
				t.Errorf("%d messages, close code %d, %v", n, got.code, got.err)
			}
		})
	}
}

// TestHalfClosed uses a client that closes its side while its job runs, and another one that resets the connection: both
// count as disconnected.
func TestHalfClosed(t *testing.T) {
	for name, leave := range map[string]func(*net.TCPConn) error{
		"half-closed": (*net.TCPConn).CloseWrite,
		"reset":       func(c *net.TCPConn) error { return errors.Join(c.SetLinger(0), c.Close()) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newHeldBuilder()
			c := serveTCP(t, b).dial()
			c.send(job())
			<-b.begun
			if err := leave(c.NetConn().(*net.TCPConn)); err != nil {
				t.Fatal(err)
			}
			if cause := <-b.ended; cause != jobend.ClientGone {
				t.Errorf("the job ended for %v", cause)
			}
		})
	}
}
