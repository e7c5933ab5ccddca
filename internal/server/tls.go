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
	// A WebSocket begins as HTTP/1.1.
	return tls.NewListener(listener, &tls.Config{GetCertificate: c.get, NextProtos: []string{"http/1.1"}}), nil
}

// A certificate is read from two files that may be replaced at any time.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	current           atomic.Pointer[tls.Certificate]

	reading sync.Mutex
	stamp   string // the result of stampNow at the last read; guarded by reading
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
	if c.stampNow() == c.stamp {
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
	c.stamp = c.stampNow()
	read, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err == nil {
		c.current.Store(&read)
	}
	return err
}

// stampNow returns a text that changes when the files change. It does not read them.
func (c *certificate) stampNow() (stamp string) {
	for _, name := range []string{c.certFile, c.keyFile} {
		if info, err := os.Stat(name); err == nil {
			stamp += fmt.Sprintln(info.Size(), info.ModTime().UnixNano())
		}
	}
	return stamp
}
