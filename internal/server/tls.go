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

// withTLS returns a listener that speaks TLS, if files for that are set.
func withTLS(listener net.Listener, certFile, keyFile string, log *slog.Logger) (net.Listener, error) {
	if certFile == "" && keyFile == "" {
		return listener, nil
	}
	if certFile == "" || keyFile == "" {
		return nil, errors.New("TLS needs both IGLU_TLS_CERT and IGLU_TLS_KEY, and only one is set")
	}
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("read the certificate and its key: %w\nhint: IGLU_TLS_CERT and IGLU_TLS_KEY name files in PEM form", err)
	}
	// A WebSocket begins as HTTP/1.1.
	return tls.NewListener(listener, &tls.Config{GetCertificate: c.get, NextProtos: []string{"http/1.1"}}), nil
}

// A certificate is a pair of files that may be replaced at any time.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	stamp   string // of the files when they were last read
	current *tls.Certificate
}

// get returns the certificate that the files hold. While one of them is new and the other is
// not, or they cannot be read, it is the one that they held before.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stampNow() != c.stamp {
		if err := c.load(); err != nil {
			c.log.Warn("cannot read the new certificate; the one before stays", "err", err)
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

// stampNow tells one content of the files from another without reading them.
func (c *certificate) stampNow() (stamp string) {
	for _, name := range []string{c.certFile, c.keyFile} {
		if info, err := os.Stat(name); err == nil {
			stamp += fmt.Sprintln(info.Size(), info.ModTime().UnixNano())
		}
	}
	return stamp
}
