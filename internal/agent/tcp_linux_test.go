package agent

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestVanishedSides checks the socket options with which the kernel of each side notices that the other has vanished.
func TestVanishedSides(t *testing.T) {
	t.Parallel()
	listener, err := listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	k := install(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := k.server.Dial(t.Context(), listener.Addr().String()); err == nil {
			conn.Close()
			t.Error("a handshake without an other side")
		}
	}()
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	wantGivenUp(t, "agent", accepted.(*net.TCPConn))
	accepted.Close()
	<-done

	a := startAgent(t, Options{Keys: k.agent, Socket: sayer(t).socket})
	wantGivenUp(t, "server", dial(t, k.server, a.address).NetConn().(*net.TCPConn))
}

func wantGivenUp(t *testing.T, side string, conn *net.TCPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for name, option := range map[string]struct{ level, option, want int }{
			"TCP_USER_TIMEOUT": {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(vanishedTime.Milliseconds())},
			"SO_KEEPALIVE":     {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			"TCP_KEEPIDLE":     {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAlive.Idle.Seconds())},
		} {
			if got, err := unix.GetsockoptInt(int(fd), option.level, option.option); got != option.want || err != nil {
				t.Errorf("%s: %s is %d, %v, want %d", side, name, got, err, option.want)
			}
		}
	})
}
