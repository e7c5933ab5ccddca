//go:build integration

package protocol

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

func TestToken(t *testing.T) {
	s := fixture.ServerWith(t, func(s *server.Settings) { s.TokenFile = fixture.TokenFile(t, fixture.GoodToken) })
	protocols := func(list string) http.Header { return http.Header{"Sec-Websocket-Protocol": {list}} }
	authorization := func(value string) http.Header { return http.Header{"Authorization": {value}} }
	for _, test := range []struct {
		header http.Header
		status int
	}{
		{nil, 401},
		{authorization("Bearer"), 401},
		{authorization("Bearer " + fixture.GoodToken[1:]), 401},
		{authorization("Bearer " + fixture.GoodToken + "x"), 401},
		{authorization("Basic " + fixture.GoodToken), 401},
		{authorization(fixture.GoodToken), 401},
		{protocols("bearer"), 401},
		{protocols("bearer, wrong"), 401},
		{protocols(fixture.GoodToken), 401},
		{authorization("Bearer " + fixture.GoodToken), 101},
		{authorization("bearer " + fixture.GoodToken), 101},
		{protocols("bearer, " + fixture.GoodToken), 101},
	} {
		response, c := fixture.AnswerTo(t, s, test.header)
		if response.StatusCode != test.status {
			t.Errorf("%v: status %d, want %d", test.header, response.StatusCode, test.status)
		}
		if c == nil {
			continue
		}
		if offered := test.header.Get("Sec-Websocket-Protocol") != ""; offered != (c.Conn.Subprotocol() == "bearer") {
			t.Errorf("%v: the protocol is %q", test.header, c.Conn.Subprotocol())
		}
		c.Send(fixture.JSONOf(t, fixture.Command("sh -c true")))
		fixture.WantExit(t, c.Finish(), 0)
	}
	if status, _ := s.Get(t, "GET", "/api/v1/healthcheck"); status != 200 {
		t.Errorf("without the token, the health check is %d", status)
	}
	if strings.Contains(s.Log.String(), fixture.GoodToken) {
		t.Error("the token is in the log")
	}
}

// writeCertificate makes a certificate for the loopback address.
func writeCertificate(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: certificate},
		keyFile:  {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTLS runs a job over TLS, and replaces the certificate while the server runs.
func TestTLS(t *testing.T) {
	certFile, keyFile := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	writeCertificate(t, certFile, keyFile, 1)
	s := fixture.ServerWith(t, func(s *server.Settings) { s.TLSCert, s.TLSKey = certFile, keyFile })
	connectTLS := func() (*fixture.Client, int64) {
		dialer := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		conn, _, err := dialer.DialContext(t.Context(), "wss://"+s.Address+schemas.BuildPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return &fixture.Client{T: t, Conn: conn}, conn.NetConn().(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	wantSerial := func(want int64) {
		t.Helper()
		c, serial := connectTLS()
		if serial != want {
			t.Errorf("the certificate is number %d, not %d", serial, want)
		}
		c.Send(fixture.JSONOf(t, fixture.Command("seq 3000")))
		got := c.Finish()
		fixture.WantExit(t, got, 0)
		fixture.WantLine(t, got, "3000")
	}
	wantSerial(1)
	writeCertificate(t, certFile, keyFile, 2)
	wantSerial(2)
	if err := os.WriteFile(certFile, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantSerial(2)
	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	wantSerial(2)
	writeCertificate(t, certFile, keyFile, 3)
	wantSerial(3)

	for _, flags := range [][]string{{"--tls-cert", certFile}, {"--tls-cert", "/nonexistent", "--tls-key", keyFile}} {
		var stdout, stderr bytes.Buffer
		args := append([]string{"serve", "--listen", "127.0.0.1:0", "--state-dir", t.TempDir()}, flags...)
		if code := fixture.RunProgram(t.Context(), args, nil, &stdout, &stderr); code != 1 || !strings.Contains(stderr.String(), "IGLU_TLS_KEY") {
			t.Errorf("%v: exit code %d, %s", flags, code, &stderr)
		}
	}
}
