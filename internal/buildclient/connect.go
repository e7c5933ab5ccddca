package buildclient

import (
	"bytes"
	"context"
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
	// dialTimeout bounds the wait for a builder's answer to a connection,
	// pingInterval is how often it is asked for a sign of life, and silenceTimeout
	// after how long without one it counts as gone.
	dialTimeout    = 30 * time.Second
	pingInterval   = 10 * time.Second
	silenceTimeout = 30 * time.Second
)

// dial connects to a builder. It asks for events; a builder that does not know them sends none.
//
// flush is called before the client waits for more, and not before: so a line is seen at
// once, and a burst of them costs few writes.
func dial(ctx context.Context, u *url.URL, token string, flush func() error) (*websocket.Conn, error) {
	dialer := websocket.Dialer{
		Proxy:            http.ProxyFromEnvironment,
		HandshakeTimeout: dialTimeout,
		ReadBufferSize:   64 << 10,
		Subprotocols:     []string{schemas.EventsProtocol},
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
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
		return nil, turnedAway(u, response)
	}
	if operation, ok := errors.AsType[*net.OpError](err); ok && operation.Op == "dial" {
		return nil, noBuilder(u, err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %s: %w", u, err)
	}
	return conn, nil
}

// noBuilder says that nobody answers at an address.
func noBuilder(u *url.URL, err error) error {
	return fmt.Errorf("no builder answers at %s: %w\nhint: start one with 'iglu-builder serve'", u, err)
}

// unauthorized says which token a builder has not accepted.
func unauthorized(u *url.URL, token string) error {
	what := "wants a token, and none was given"
	if token != "" {
		what = "wants another token: the one that was given is not the builder's"
	}
	return fmt.Errorf("%s %s\nhint: name the file that holds the builder's token with --token-file or IGLU_TOKEN_FILE", u, what)
}

// turnedAway says what a server answers that lets no job in.
func turnedAway(u *url.URL, response *http.Response) error {
	if response.StatusCode == http.StatusForbidden { // for a reason, which it says
		reason, _ := io.ReadAll(response.Body) // the library has read it, or its beginning
		return fmt.Errorf("%s refuses: %s", u, termtext.Visible(strings.TrimSpace(string(reason))))
	}
	return fmt.Errorf("%s is not a builder: it answers %s", u, termtext.Visible(response.Status))
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

// ping asks the builder for signs of life until the function that it returns is called.
func ping(conn *websocket.Conn) (stop func()) {
	return tick.Every(pingInterval, func() {
		conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(pingInterval))
	})
}

// flushing is a connection that shows what has come before it waits for more.
type flushing struct {
	net.Conn
	flush func() error
}

func (f flushing) Read(p []byte) (int, error) {
	if err := f.flush(); err != nil {
		return 0, err
	}
	return f.Conn.Read(p)
}
