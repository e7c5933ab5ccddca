//go:build !linux

package wsapi

import "net"

// tcpInfo is not to be had here: a client whose machine vanished while it was sent
// something is noticed when the time for a client is up.
func tcpInfo(net.Conn) (tcpState, bool) { return tcpState{}, false }
