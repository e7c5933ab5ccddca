//go:build integration

package isolation

import (
	"net"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestJobsAreNoClients runs a job that calls its builder at the machine's address on the jobs' network. The
// builder listens on all addresses and needs no token. It refuses the job but accepts other clients.
func TestJobsAreNoClients(t *testing.T) {
	t.Parallel()
	s := fixture.ServerWith(t, func(s *server.Settings) { s.Listen = "0.0.0.0:0" })
	_, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		t.Fatal(err)
	}
	// The gateway is the machine. The list of routes has its address in hexadecimal.
	call := `sh -c 'while read i d g rest; do if [ $d = 00000000 ]; then gateway=$((0x${g:6:2})).$((0x${g:4:2})).$((0x${g:2:2})).$((0x${g:0:2})); fi; done < /proc/net/route; ` +
		`exec 3<>/dev/tcp/$gateway/` + port + `; printf "GET /livez HTTP/1.0\r\n\r\n" >&3; while read -r line <&3; do echo "$line"; done; exit 0'`
	got := fixture.Do(t, s, fixture.Command(call))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "HTTP/1.0 403 Forbidden")
	fixture.WantLine(t, got, "The builder accepts no clients from the network of its jobs.")
	if status, body := s.Get(t, "GET", "/livez"); status != 200 || !strings.Contains(body, "running") {
		t.Errorf("another client got %d, %s", status, body)
	}
}
