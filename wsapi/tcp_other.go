//go:build !linux

package wsapi

import "net"

// tcpInfo is not available on this system. If a client's machine disappears during a write, the server notices
// it after Options.ClientTimeout.
func tcpInfo(net.Conn) (tcpState, bool) { return tcpState{}, false }
