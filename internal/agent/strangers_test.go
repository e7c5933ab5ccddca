package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const secret = "what only the engine says"

// sayer is an engine that sends its secret on every connection.
func sayer(t *testing.T) *engine {
	return startEngine(t, func(conn *net.UnixConn) {
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(secret), secret)
		conn.CloseWrite()
		io.Copy(io.Discard, conn)
	})
}

// ask asks for the secret on a connection, and returns what it gets.
func ask(conn net.Conn, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(timeout))
	io.WriteString(conn, "GET /_ping HTTP/1.1\r\nHost: agent\r\n\r\n")
	got, err := io.ReadAll(conn)
	return string(got), err
}

// TestStrangers has clients without the server's key ask for the engine's secret.
func TestStrangers(t *testing.T) {
	t.Parallel()
	k, other := install(t), install(t)
	a := startAgent(t, Options{Keys: k.agent, Socket: sayer(t).socket})
	with := func(change func(c *tls.Config)) func(address string) (string, error) {
		return func(address string) (string, error) {
			config := k.server.dialing()
			change(config)
			return ask((&tls.Dialer{Config: config}).DialContext(context.Background(), "tcp", address))
		}
	}
	attacks := map[string]func(address string) (string, error){
		"no certificate": with(func(c *tls.Config) { c.Certificates = nil }),
		"a key of another installation": with(func(c *tls.Config) {
			c.Certificates = other.server.dialing().Certificates
		}),
		"another node's key, which is an agent's": with(func(c *tls.Config) { // does not check the agent's key
			c.Certificates = k.agent.dialing().Certificates
		}),
		"the server's certificate without its key": with(func(c *tls.Config) {
			c.Certificates = []tls.Certificate{{
				Certificate: k.server.own.Certificate,
				PrivateKey:  other.server.own.PrivateKey,
			}}
		}),
		"TLS 1.2 with the right key": with(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }),
		"bytes without TLS": func(address string) (string, error) {
			return ask(net.Dial("tcp", address))
		},
		"plain HTTP": func(address string) (string, error) {
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: timeout}
			response, err := client.Get("http://" + address + "/_ping")
			if err != nil {
				return "", err
			}
			defer response.Body.Close()
			got, err := io.ReadAll(response.Body)
			return string(got), err
		},
	}
	for name, attack := range attacks {
		if got, _ := attack(a.address); strings.Contains(got, secret) {
			t.Errorf("%s: the engine answers", name)
		}
	}
	// The same with the right key, to show that the secret can be read at all.
	if got, err := with(func(*tls.Config) {})(a.address); !strings.Contains(got, secret) {
		t.Errorf("the server: got %q, %v", got, err)
	}
}

// TestFalseAgents lets the server connect to programs that are not its agents.
func TestFalseAgents(t *testing.T) {
	t.Parallel()
	k, other := install(t), install(t)
	for name, false := range map[string]*Keys{
		"of another installation": other.agent,
		// It would accept any client, and get the secrets of jobs.
		"with the server's own key": {own: k.server.own, peers: k.agent.peers},
	} {
		a := startAgent(t, Options{Keys: false, Socket: sayer(t).socket})
		if conn, err := k.server.Dial(t.Context(), a.address); err == nil {
			conn.Close()
			t.Errorf("%s: the server talks to it", name)
		}
	}
}

// TestSilentClients connects more than maxRecent clients that send nothing.
func TestSilentClients(t *testing.T) {
	t.Parallel()
	k := install(t)
	a := startAgent(t, Options{Keys: k.agent, Socket: sayer(t).socket})
	var silent []net.Conn
	for range 3 * maxRecent {
		conn, err := net.Dial("tcp", a.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(timeout))
		silent = append(silent, conn)
	}
	got, err := ask(k.server.Dial(t.Context(), a.address))
	if !strings.Contains(got, secret) {
		t.Errorf("the server does not get in: got %q, %v", got, err)
	}
	// All of them are closed: most because of later ones, the last ones after handshakeTimeout.
	for n, conn := range silent {
		if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Fatalf("silent client %d: %v", n, err)
		}
	}
	if n := strings.Count(a.log.String(), "refused a client"); n == 0 || n > 3 {
		t.Errorf("%d lines of the log say that clients are refused:\n%s", n, a.log)
	}
}

// TestHandshakesInTurn checks that the oldest of too many connections is closed, and no other; and that none is added
// when all were closed.
func TestHandshakesInTurn(t *testing.T) {
	t.Parallel()
	var r recentConns
	var ours, theirs []net.Conn
	for range maxRecent + 2 {
		a, b := net.Pipe()
		defer a.Close()
		b.SetDeadline(time.Now().Add(timeout))
		ours, theirs = append(ours, a), append(theirs, b)
		r.add(a)
	}
	for n, conn := range theirs[:2] {
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("connection %d: %v", n, err)
		}
		if r.remove(ours[n]) {
			t.Errorf("connection %d goes on", n)
		}
	}
	for n, conn := range ours[2:] {
		if !r.remove(conn) {
			t.Fatalf("connection %d is closed", n+2)
		}
	}
	r.closeAll()
	r.add(ours[2])
	if _, err := theirs[2].Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after all were closed, one more goes on: %v", err)
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}

// TestCheck runs Check on an agent with the same keys, and on others.
func TestCheck(t *testing.T) {
	t.Parallel()
	k, other := install(t), install(t)
	socket := sayer(t).socket
	ours, others := startAgent(t, Options{Keys: k.agent, Socket: socket}), startAgent(t, Options{Keys: other.agent, Socket: socket})
	for range 2 {
		if err := Check(t.Context(), k.agent, ours.address); err != nil {
			t.Error(err)
		}
	}
	if err := Check(t.Context(), k.agent, others.address); err == nil || !strings.Contains(err.Error(), "another one answers there") {
		t.Errorf("of another agent: %v", err)
	}
	ours.stop()
	ours.awaitEnd(t)
	if err := Check(t.Context(), k.agent, ours.address); err == nil {
		t.Error("one that has ended is in good health")
	}
	if strings.Contains(ours.log.String(), "refused") { // every check would log it
		t.Errorf("the log:\n%s", ours.log)
	}
}

// TestDockersOwnVerification verifies the agent as Docker's clients do: by the name and the signature of its
// certificate.
func TestDockersOwnVerification(t *testing.T) {
	t.Parallel()
	k := install(t, "builder-7.example.com", "10.1.2.3")
	a := startAgent(t, Options{Keys: k.agent, Socket: sayer(t).socket})
	folder := filepath.Join(k.folder, "server")
	pool, err := poolOf(filepath.Join(folder, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	own, err := tls.LoadX509KeyPair(filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"agent": true, "tasks.agent": true, "127.0.0.1": true, "builder-7.example.com": true, "10.1.2.3": true,
		"builder-8.example.com": false,
	} {
		config := &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{own}, ServerName: name, NextProtos: []string{"http/1.1"}}
		got, err := ask((&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", a.address))
		if strings.Contains(got, secret) != want {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}
