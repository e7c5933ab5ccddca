package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
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

	mu      sync.Mutex
	stamp   string // the result of stampNow at the last read
	current *tls.Certificate
}

// get returns the certificate in the files. If the files do not match or cannot be read, it returns the
// previous certificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stampNow() != c.stamp {
		if err := c.load(); err != nil {
			c.log.Warn("cannot read the new certificate; the old one is still used", "err", err)
		} else {
			c.log.Info("read a new certificate", "file", c.certFile)
		}
	}
	return c.current, nil
}

// load reads the files.
func (c *certificate) load() error {
	c.stamp = c.stampNow()
	read, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err == nil {
		c.current = &read
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
