package buildclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/internal/tick"
	"iglu.sh/builder/schemas"
)

const (
	// dialTimeout limits the time until a builder answers a connection. Every pingInterval the client sends
	// a ping. After silenceTimeout without any data the builder counts as disconnected.
	dialTimeout    = 30 * time.Second
	pingInterval   = 10 * time.Second
	silenceTimeout = 30 * time.Second
	// maxMessage is the largest size of a message in bytes. A line of a log has at most 1 MiB, and each byte
	// may be escaped.
	maxMessage = 16 << 20
)

// errTooLong is the error if a builder sends a larger message.
var errTooLong = errors.New("the builder sent a message that is too long")

// dial connects to a builder. It requests events, which some builders do not send.
//
// flush is called only before the client waits for more data: so a line is shown immediately, and a burst of
// lines needs few writes.
func dial(ctx context.Context, u *url.URL, token string, flush func() error) (*websocket.Conn, error) {
	stop := func() bool { return true }
	defer func() { stop() }()
	dialer := websocket.Dialer{
		Proxy:            http.ProxyFromEnvironment,
		HandshakeTimeout: dialTimeout,
		ReadBufferSize:   64 << 10,
		Subprotocols:     []string{schemas.EventsProtocol},
		NetDialContext: func(dialing context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(dialing, network, address)
			if err == nil { // the library waits for the builder's answer even after ctx has ended
				stop = context.AfterFunc(ctx, func() { conn.Close() })
			}
			return flushing{conn, flush}, err
		},
	}
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	conn, response, err := dialer.DialContext(ctx, u.String(), header)
	if response != nil && response.StatusCode == http.StatusUnauthorized {
		return nil, unauthorized(u, token)
	}
	if errors.Is(err, websocket.ErrBadHandshake) && response != nil {
		return nil, rejected(u, response)
	}
	if err != nil {
		return nil, notConnected(u, err)
	}
	conn.SetReadLimit(maxMessage)
	return conn, nil
}

// notConnected returns the error if no connection to a builder could be made.
func notConnected(u *url.URL, err error) error {
	if failed, ok := errors.AsType[*url.Error](err); ok { // which repeats the URL
		err = failed.Err
	}
	if operation, ok := errors.AsType[*net.OpError](err); ok && operation.Op == "dial" {
		return fmt.Errorf("no builder answers at %s: %w\nhint: start one with 'iglu-builder serve'", u, err)
	}
	hint := ""
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		hint = "\nhint: if the builder has no certificate, its address begins with http:// or ws://"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		hint = "\nhint: the host in the address must be one of the certificate's; SSL_CERT_FILE is a file with certificates to trust"
	}
	return fmt.Errorf("cannot connect to %s: %w%s", u, err, hint)
}

// notBuilder returns the error if a server answers what a builder does not answer. text is its answer, or the
// beginning.
func notBuilder(u *url.URL, response *http.Response, text []byte) error {
	hint := ""
	if bytes.Contains(text, []byte("HTTP request to an HTTPS server")) { // as servers in Go say it
		hint = "\nhint: the server speaks TLS: its address begins with https:// or wss://"
	}
	if to, err := response.Location(); err == nil {
		hint = "\nhint: it redirects to " + termtext.Visible(to.Scheme+"://"+to.Host) + ": if the builder is there, give that address"
	}
	return fmt.Errorf("%s is not a builder: it answers %s%s", u, termtext.Visible(response.Status), hint)
}

// unauthorized returns the error if a builder has not accepted the token.
func unauthorized(u *url.URL, token string) error {
	what := "needs a token, and none was given"
	if token != "" {
		what = "needs another token: the given one is not the builder's"
	}
	return fmt.Errorf("%s %s\nhint: set --token-file or IGLU_TOKEN_FILE to a file with the builder's token", u, what)
}

// rejected returns the error if a server refuses the WebSocket.
func rejected(u *url.URL, response *http.Response) error {
	text, _ := io.ReadAll(response.Body)             // the library has read it, or its beginning
	if response.StatusCode == http.StatusForbidden { // the body is the reason
		return fmt.Errorf("%s refuses: %s", u, termtext.Visible(strings.TrimSpace(string(text))))
	}
	return notBuilder(u, response, text)
}

// readMessage appends the next message to buf.
func readMessage(conn *websocket.Conn, buf []byte) ([]byte, error) {
	_, r, err := conn.NextReader()
	if err != nil {
		return buf, err
	}
	message := bytes.NewBuffer(buf)
	_, err = message.ReadFrom(r)
	return message.Bytes(), err
}

// ping sends pings to the builder until stop is called.
func ping(conn *websocket.Conn) (stop func()) {
	return tick.Every(pingInterval, func() {
		conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(pingInterval))
	})
}

// flushing is a connection that calls flush before each read. A read waits for at most silenceTimeout, which begins after
// flush: that takes long if the terminal is stopped or a pager reads the output.
type flushing struct {
	net.Conn
	flush func() error
}

func (f flushing) Read(p []byte) (int, error) {
	if err := f.flush(); err != nil {
		return 0, err
	}
	f.SetReadDeadline(time.Now().Add(silenceTimeout)) // any data shows that the builder is alive
	return f.Conn.Read(p)
}
