package docker

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/docker/docker/client"
	"github.com/docker/go-units"
)

const (
	// maxAnswer is how many bytes an engine's answer may have. The longest are lists. They have some kilobytes for each
	// container.
	maxAnswer = 16 << 20
	// maxHeader is how many bytes the header of an answer may have, if the engine is used through an agent.
	maxHeader = 64 << 10
	// maxName is how many bytes a name, an ID or a digest may have that is kept. Real ones have up to 71.
	maxName = 256
)

// limitAnswers makes a client fail a call if the engine's answer is too long. It would be in memory as a whole.
func limitAnswers(c *client.Client) error {
	h := c.HTTPClient() // a copy
	h.Transport = answerLimit{h.Transport}
	return client.WithHTTPClient(h)(c)
}

// An answerLimit limits the answers of another transport to maxAnswer, except those that are read piece by piece: archives
// and the progress of a pull.
type answerLimit struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (l answerLimit) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := l.RoundTripper.RoundTrip(request)
	if err == nil && !strings.HasSuffix(request.URL.Path, "/archive") && !strings.HasSuffix(request.URL.Path, "/images/create") {
		response.Body = &limitedBody{response.Body, maxAnswer}
	}
	return response, err
}

// A limitedBody is the body of an answer that may have some bytes more.
type limitedBody struct {
	io.ReadCloser
	left int
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, fmt.Errorf("the answer has more than %s", units.BytesSize(maxAnswer))
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// checkNames returns an error if one of the names in an engine's answer is too long to be kept.
func checkNames(names ...string) error {
	if slices.ContainsFunc(names, func(name string) bool { return len(name) > maxName }) {
		return fmt.Errorf("the answer has a name, an ID or a digest of more than %d bytes", maxName)
	}
	return nil
}

// limitHeaders makes a function that connects to an engine limit the header of the first answer on each connection. The
// client of the engine has no limit for that of an answer after which a connection is a stream.
func limitHeaders(dial func(ctx context.Context, network, addr string) (net.Conn, error)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &headerConn{Conn: conn, left: maxHeader}, nil
	}
}

// A headerConn is a connection that fails if its first answer's header has more than some bytes.
type headerConn struct {
	net.Conn
	left     int // bytes
	lineEnds int // with which it ends so far; 2: it is complete
}

func (c *headerConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for i := 0; i < n && c.lineEnds < 2; i++ {
		if c.left--; c.left < 0 {
			return 0, fmt.Errorf("the answer's header has more than %s", units.BytesSize(maxHeader))
		}
		switch p[i] {
		case '\n':
			c.lineEnds++
		case '\r':
		default:
			c.lineEnds = 0
		}
	}
	return n, err
}
