package wsapi

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/wsapi/connlimit"
)

// tcpInfo asks the kernel for the state of a TCP connection. TLS and the connection limit may wrap it.
func tcpInfo(conn net.Conn) (state tcpState, ok bool) {
	for inner := connlimit.Unwrap(conn); inner != nil; inner = connlimit.Unwrap(inner) {
		conn = inner
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return state, false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return state, false
	}
	var info *unix.TCPInfo
	if controlErr := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); controlErr != nil || err != nil {
		return state, false
	}
	return tcpState{
		silence: time.Duration(info.Last_ack_recv) * time.Millisecond,
		tries:   int(info.Retransmits) + int(info.Probes),
		taken:   info.Bytes_acked,
		waiting: info.Notsent_bytes > 0 || info.Unacked > 0,
	}, true
}
