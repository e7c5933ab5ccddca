package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// withTLS returns a listener with TLS, or the given one if no files are set.
func withTLS(listener net.Listener, certFile, keyFile string, log *slog.Logger) (net.Listener, error) {
	if certFile == "" && keyFile == "" {
		return listener, nil
	}
	if certFile == "" || keyFile == "" {
		return nil, errors.New("TLS needs both IGLU_TLS_CERT and IGLU_TLS_KEY, and only one is set")
	}
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("read the certificate and its key: %w\nhint: set IGLU_TLS_CERT and IGLU_TLS_KEY to files in PEM format", err)
	}
	c.checkExpiry()
	// A WebSocket begins as HTTP/1.1.
	return tls.NewListener(listener, &tls.Config{GetCertificate: c.get, NextProtos: []string{"http/1.1"}}), nil
}

// A certificate is read from two files that may be replaced at any time.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	current           atomic.Pointer[tls.Certificate]

	reading sync.Mutex
	read    look // at the files when they were read last; guarded by reading
	expired bool // it is logged that the current certificate has expired; guarded by reading
}

// get returns the certificate in the files. If the files do not match or cannot be read, it returns the
// previous certificate. While one client's handshake looks at the files, which may be slow, the others get the
// certificate that is known.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.reading.TryLock() {
		c.renew()
		c.reading.Unlock()
	}
	return c.current.Load(), nil
}

// renew reads the files if they have changed. reading is held.
func (c *certificate) renew() {
	defer c.checkExpiry()
	if isSame(c.read, c.look()) {
		return
	}
	if err := c.load(); err != nil {
		c.log.Warn("cannot read the new certificate; the old one is still used", "err", err)
	} else {
		c.log.Info("read a new certificate", "file", c.certFile)
	}
}

// load reads the files. reading is held, or nobody else has c yet.
func (c *certificate) load() error {
	c.read = c.look()
	read, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err == nil {
		c.current.Store(&read)
		c.expired = false
	}
	return err
}

// checkExpiry logs once that the current certificate has expired. reading is held, or nobody else has c yet.
func (c *certificate) checkExpiry() {
	end := c.current.Load().Leaf.NotAfter
	if c.expired || time.Now().Before(end) {
		return
	}
	c.expired = true
	c.log.Warn("the certificate has expired, so clients refuse it: replace the files IGLU_TLS_CERT and IGLU_TLS_KEY", "file", c.certFile, "expired", end)
}

// A look is what can be seen of the certificate's file and of its key's without reading them. A file that cannot be found
// is nil.
type look [2]os.FileInfo

func (c *certificate) look() (l look) {
	for i, name := range []string{c.certFile, c.keyFile} {
		l[i], _ = os.Stat(name)
	}
	return l
}

// isSame reports whether the files are the same and have not changed. Two files can have one size and one time: all in a Nix
// store have the same time.
func isSame(before, now look) bool {
	for i, a := range before {
		b := now[i]
		if (a == nil) != (b == nil) {
			return false
		}
		if a != nil && !(os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())) {
			return false
		}
	}
	return true
}
