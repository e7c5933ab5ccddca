package server

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// writeCertificate writes a certificate with a serial number and its key to two files. It returns the text of the key.
func writeCertificate(t *testing.T, certFile, keyFile string, serial int64) (key []byte) {
	t.Helper()
	return writeCertificateUntil(t, certFile, keyFile, serial, time.Now().Add(time.Hour))
}

// writeCertificateUntil is writeCertificate for a certificate that expires at a time.
func writeCertificateUntil(t *testing.T, certFile, keyFile string, serial int64, end time.Time) (key []byte) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: end}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for name, text := range map[string][]byte{certFile: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), keyFile: key} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return key
}

// wantSerial checks which certificate a client gets.
func (c *certificate) wantSerial(t *testing.T, want int64) {
	t.Helper()
	got, err := c.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Leaf.SerialNumber.Int64() != want {
		t.Errorf("the certificate is number %s, want %d", got.Leaf.SerialNumber, want)
	}
}

// TestSlowCertificate replaces a certificate by files that cannot be read for a while, as on a network file system. The
// handshakes of all clients but the first go on with the old certificate meanwhile.
func TestSlowCertificate(t *testing.T) {
	folder := t.TempDir()
	c := &certificate{certFile: filepath.Join(folder, "cert"), keyFile: filepath.Join(folder, "key"), log: slog.New(slog.DiscardHandler)}
	writeCertificate(t, c.certFile, c.keyFile, 1)
	if err := c.load(); err != nil {
		t.Fatal(err)
	}
	c.wantSerial(t, 1)

	slow := filepath.Join(folder, "slow")
	if err := syscall.Mkfifo(slow, 0o600); err != nil {
		t.Fatal(err)
	}
	key := writeCertificate(t, c.certFile, filepath.Join(folder, "other"), 2)
	if err := os.Rename(slow, c.keyFile); err != nil {
		t.Fatal(err)
	}
	first := make(chan struct{})
	go func() {
		defer close(first)
		c.wantSerial(t, 2)
	}()
	writer, err := os.OpenFile(c.keyFile, os.O_WRONLY, 0) // returns when the first handshake reads the key
	if err != nil {
		t.Fatal(err)
	}
	c.wantSerial(t, 1)
	if _, err := writer.Write(key); err != nil {
		t.Error(err)
	}
	writer.Close()
	<-first
}

// TestCertificateOfSameTime replaces a certificate by one of the same size and time, as a link into a Nix store or a folder
// from an archive does.
func TestCertificateOfSameTime(t *testing.T) {
	folder := t.TempDir()
	c := &certificate{certFile: filepath.Join(folder, "now/cert"), keyFile: filepath.Join(folder, "now/key"), log: slog.New(slog.DiscardHandler)}
	link := func(version string) {
		t.Helper()
		if err := os.Symlink(version, filepath.Join(folder, "next")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(folder, "next"), filepath.Join(folder, "now")); err != nil {
			t.Fatal(err)
		}
	}
	for i, version := range []string{"first", "second"} {
		if err := os.Mkdir(filepath.Join(folder, version), 0o700); err != nil {
			t.Fatal(err)
		}
		cert, key := filepath.Join(folder, version, "cert"), filepath.Join(folder, version, "key")
		writeCertificate(t, cert, key, int64(i+1))
		for _, name := range []string{cert, key} {
			if err := os.Chtimes(name, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
		}
	}
	link("first")
	if err := c.load(); err != nil {
		t.Fatal(err)
	}
	c.wantSerial(t, 1)
	link("second")
	c.wantSerial(t, 2)
}

// TestExpiredCertificate starts with a certificate that has expired, replaces it by a valid one, and that by another one that
// has expired. Each of the expired ones is logged once, however many clients there are.
func TestExpiredCertificate(t *testing.T) {
	folder := t.TempDir()
	var log strings.Builder
	c := &certificate{certFile: filepath.Join(folder, "cert"), keyFile: filepath.Join(folder, "key"), log: slog.New(slog.NewTextHandler(&log, nil))}
	for i, test := range []struct {
		end  time.Duration // from now
		want int           // lines about expired certificates so far
	}{{-time.Hour, 1}, {time.Hour, 1}, {-time.Minute, 2}} {
		writeCertificateUntil(t, c.certFile, c.keyFile, int64(i), time.Now().Add(test.end))
		if i == 0 {
			if err := c.load(); err != nil {
				t.Fatal(err)
			}
			c.checkExpiry()
		}
		for range 3 {
			c.wantSerial(t, int64(i))
		}
		if got := strings.Count(log.String(), "the certificate has expired"); got != test.want {
			t.Errorf("after certificate %d, the log has %d lines about expired ones, want %d:\n%s", i, got, test.want, &log)
		}
	}
}
