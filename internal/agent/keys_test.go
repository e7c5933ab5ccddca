package agent

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func poolOf(name string) (*x509.CertPool, error) {
	text, err := os.ReadFile(name)
	pool := x509.NewCertPool()
	if err == nil && !pool.AppendCertsFromPEM(text) {
		err = errors.New("no certificate in " + name)
	}
	return pool, err
}

// TestMakeKeys checks the files and their permissions.
func TestMakeKeys(t *testing.T) {
	t.Parallel()
	folder := install(t).folder
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if err := filepath.WalkDir(folder, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is for others, too: %s", name, info.Mode())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read("server/ca.pem"), read("agent/cert.pem")) || !bytes.Equal(read("agent/ca.pem"), read("server/cert.pem")) {
		t.Error("one side's certificate is not what the other side expects")
	}
	key := read("server/key.pem")
	for _, name := range []string{"ca.pem", "cert.pem", "key.pem"} {
		if bytes.Contains(read("agent/"+name), key[30:60]) {
			t.Errorf("the server's private key is in agent/%s", name)
		}
	}

	before := read("agent/key.pem")
	if err := os.RemoveAll(filepath.Join(folder, "server")); err != nil {
		t.Fatal(err)
	}
	if err := MakeKeys(folder, nil); err == nil || !strings.Contains(err.Error(), "agent exists already") {
		t.Errorf("keys are replaced: %v", err)
	}
	if _, err := os.Stat(filepath.Join(folder, "server")); err == nil || !bytes.Equal(before, read("agent/key.pem")) {
		t.Error("something was made or changed beside keys that are there")
	}
}

// TestReplacedKeys checks that the old and the new server's key are both accepted while keys are replaced.
func TestReplacedKeys(t *testing.T) {
	t.Parallel()
	old, new := install(t), install(t)
	both := append(readFile(t, old.folder, "agent/ca.pem"), readFile(t, new.folder, "agent/ca.pem")...)
	if err := os.WriteFile(filepath.Join(old.folder, "agent/ca.pem"), both, 0o600); err != nil {
		t.Fatal(err)
	}
	a := startAgent(t, Options{Keys: readKeys(t, old.folder, "agent"), Socket: sayer(t).socket})
	for name, own := range map[string]*Keys{"old": old.server, "new": {own: new.server.own, peers: old.server.peers}} {
		if got, err := ask(own.Dial(t.Context(), a.address)); !strings.Contains(got, secret) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

func readFile(t *testing.T, folder, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestReadKeys reads files that are missing or wrong.
func TestReadKeys(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, from string // the file that is replaced, and by which; none: it is removed
		want       string
	}{
		{"key.pem", "", "key.pem: no such file"},
		{"cert.pem", "", "cert.pem: no such file"},
		{"ca.pem", "", "ca.pem: no such file"},
		{"key.pem", "cert.pem", "found a certificate rather than a key"},
		{"cert.pem", "ca.pem", "private key does not match public key"},
		{"ca.pem", "key.pem", "ca.pem: "},
		{"ca.pem", "/dev/null", "ca.pem: no certificate in it"},
		{"ca.pem", "cert.pem", "ca.pem holds this side's own key"},
	} {
		folder := filepath.Join(install(t).folder, "agent")
		var text []byte
		var err error
		if strings.HasPrefix(test.from, "/") {
			text, err = os.ReadFile(test.from)
		} else if test.from != "" {
			text, err = os.ReadFile(filepath.Join(folder, test.from))
		}
		if err == nil {
			err = os.Remove(filepath.Join(folder, test.name))
		}
		if err == nil && test.from != "" {
			err = os.WriteFile(filepath.Join(folder, test.name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKeys(folder); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s for %s: %v, want %s", test.from, test.name, err, test.want)
		}
	}
}

// TestIsHost checks which hosts a certificate can have.
func TestIsHost(t *testing.T) {
	for text, want := range map[string]bool{
		"node-1": true, "tasks.agent": true, "my_host.example.com": true, "*.example.com": true, "192.0.2.1": true, "2001:db8::1": true, "xn--nde-5qa": true,
		"": false, "bad host": false, "node-1:2376": false, "[::1]": false, "https://node-1": false, "-a": false, "a-": false, "a..b": false, "a.*": false, "nöde": false, "a\n": false,
	} {
		if got := IsHost(text); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}
