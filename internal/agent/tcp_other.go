//go:build !linux

package agent

import "syscall"

// withUserTimeout does nothing, because this system has no such option. Keepalive alone notices that the other
// side has vanished.
func withUserTimeout(_, _ string, _ syscall.RawConn) error { return nil }
