package agent

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// withUserTimeout lets the kernel close a connection whose other side acknowledges nothing for vanishedTime.
// Without it, the kernel retries for a quarter of an hour.
func withUserTimeout(_, _ string, raw syscall.RawConn) (err error) {
	controlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(vanishedTime.Milliseconds()))
	})
	return errors.Join(controlErr, err)
}
