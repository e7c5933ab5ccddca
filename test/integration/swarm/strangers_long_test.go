//go:build integration && long

package swarm

import (
	"crypto/tls"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/test/kit/fixture"
	"iglu.sh/builder/test/kit/lab"
)

// TestStrangers requests an engine's version from an agent, as an attacker on the stack's network: without a key, and
// with the key of another node's agent. Only the server's key works.
func TestStrangers(t *testing.T) {
	s := deploy(t, nil)
	agent := s.addressOf(s.lab.Nodes[2], "agent", s.name+"_agents") + ":2376"
	for name, test := range map[string]struct {
		certificates []tls.Certificate
		opens        bool
	}{
		"no key":                     {},
		"another node's key":         {certificates: keyOf(t, "agent")},
		"the server's key, as it is": {certificates: keyOf(t, "server"), opens: true},
	} {
		conn, err := s.lab.Nodes[1].DialFrom(t.Context(), s.containers(s.lab.Nodes[1], "agent")[0], agent)
		if err != nil {
			t.Fatal(err)
		}
		client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, Certificates: test.certificates})
		client.SetDeadline(time.Now().Add(time.Minute))
		io.WriteString(client, "GET /version HTTP/1.0\r\nHost: engine\r\n\r\n")
		got, err := io.ReadAll(client)
		client.Close()
		if strings.Contains(string(got), "ApiVersion") != test.opens {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
		if !test.opens && !strings.Contains(err.Error(), "tls: ") {
			t.Errorf("%s: refused for another reason than the key: %v", name, err)
		}
	}
}

func keyOf(t *testing.T, side string) []tls.Certificate {
	t.Helper()
	in := func(name string) string { return filepath.Join(env.keys, side, name) }
	certificate, err := tls.LoadX509KeyPair(in("cert.pem"), in("key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return []tls.Certificate{certificate}
}

// TestJobsDoNotReachAgents runs a job on each node that calls the agents: at their addresses on the stack's network, and
// at those on the bridge of each node. With a bare proxy to an engine, at the nodes' gateway, the job succeeds.
func TestJobsDoNotReachAgents(t *testing.T) {
	program := fixture.BuildProgram(t, "attack")
	image := strings.ToLower("iglu-test-attack:" + t.Name())
	for _, n := range theLab(t).Nodes {
		fixture.ImportProgram(t, n.Host(), image, program, "attack")
		t.Cleanup(func() { n.Docker("image", "rm", image) })
	}
	s := deploy(t, map[string]string{"IGLU_JOB_IMAGE": image, "IGLU_JOB_USER": "root", "IGLU_MAX_JOBS": "1"})
	s.Image = image
	attack := func(address string) fixture.Result {
		t.Helper()
		return fixture.Do(t, s.Server, fixture.Command("attack agent "+address))
	}
	for _, n := range s.lab.Nodes {
		for _, network := range []string{s.name + "_agents", "docker_gwbridge"} {
			address := s.addressOf(n, "agent", network)
			got := attack(address + ":2376")
			fixture.WantExit(t, got, 1)
			fixture.WantLine(t, got, "agent: refused: ")
		}
		fixture.WantExit(t, attack(n.IP+":2376"), 1)
	}
	got := attack(s.bareProxy(s.lab.Nodes[1]))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "agent: succeeded")
}

// addressOf returns the address of a service's container on a network of a node.
func (s *stack) addressOf(n *lab.Node, service, network string) string {
	s.t.Helper()
	id := s.containers(n, service)[0]
	// Only docker network inspect lists the containers on the bridge.
	text, err := n.Docker("network", "inspect", "--format",
		"{{range $id, $c := .Containers}}{{$id}} {{$c.Name}} {{$c.IPv4Address}}\n{{end}}", network)
	if err != nil {
		s.t.Fatal(err)
	}
	sandbox, err := n.Docker("inspect", "--format", "{{.NetworkSettings.SandboxID}}", id)
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 3 && (fields[0] == id || fields[1] == "gateway_"+sandbox[:12]) {
			address, _, _ := strings.Cut(fields[2], "/")
			return address
		}
	}
	s.t.Fatalf("the %s of %s is not on the network %s:\n%s", service, n.Name, network, text)
	return ""
}

// bareProxy starts a proxy from the lab to a node's engine without authentication, and returns its address.
func (s *stack) bareProxy(n *lab.Node) string {
	s.t.Helper()
	listener, err := s.lab.Listen()
	if err != nil {
		s.t.Fatal(err)
	}
	s.serve(listener, func() (net.Conn, error) { return net.Dial("unix", strings.TrimPrefix(n.Host(), "unix://")) })
	return listener.Addr().String()
}
