package cachix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// A call is one request of the protocol with its answer.
type call struct {
	doing  string // for errors: "start the upload of NAME to"
	method string
	url    string
	body   any // becomes JSON; nil for none
	answer any // gets the answer's JSON; nil if there is none to read
}

// do makes the call, again where that may help.
func (c *Client) do(ctx context.Context, call call) error {
	return c.retry(ctx, func() error { return c.once(ctx, call) })
}

// once makes one attempt at a call.
func (c *Client) once(ctx context.Context, call call) error {
	var body []byte
	if call.body != nil {
		var err error
		if body, err = json.Marshal(call.body); err != nil {
			return fmt.Errorf("%s: %w", call.doing, err)
		}
	}
	attempt, cancel := context.WithTimeout(ctx, c.options.CallTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(attempt, call.method, call.url, bytes.NewReader(body))
	if err != nil {
		return c.failed(ctx, call.doing, err)
	}
	if call.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set("Accept", "application/json")
	c.authorize(request)
	response, text, err := c.exchange(request)
	if err != nil {
		return c.failed(ctx, call.doing, err)
	}
	if response.StatusCode/100 != 2 {
		return c.answered(call.doing, response, text)
	}
	if call.answer == nil {
		return nil
	}
	if json.Unmarshal(text, call.answer) != nil {
		return &Error{Kind: NotCachix, Doing: call.doing, Cache: c.shown, Status: response.StatusCode, Detail: c.excerpt(text)}
	}
	return nil
}

// authorize adds the API key, and who is asking.
func (c *Client) authorize(request *http.Request) {
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
}

// maxAnswer bounds how many bytes of an answer are read. The longest is the list of
// the hashes that a cache lacks, 35 bytes each.
const maxAnswer = 2 * maxHashes * (HashLen + 3)

// exchange sends a request and reads the answer, whatever its status.
func (c *Client) exchange(request *http.Request) (*http.Response, []byte, error) {
	request.Header.Set("User-Agent", userAgent)
	response, err := c.http.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	return response, text, err
}

// userAgent names us in a server's log.
const userAgent = "iglu-builder"

// retry calls attempt until it succeeds, or fails for good, or has failed
// options.Attempts times, or ctx ends.
func (c *Client) retry(ctx context.Context, attempt func() error) error {
	for n := 1; ; n++ {
		err := attempt()
		failure, ok := errors.AsType[*Error](err)
		if !ok || !failure.again || n >= c.options.Attempts {
			return err
		}
		select {
		case <-time.After(c.pause(n, failure.after)):
		case <-ctx.Done():
			return fmt.Errorf("%w; not tried again: %w", err, context.Cause(ctx))
		}
	}
}

const (
	// maxPause bounds the wait before an attempt where the server does not say.
	maxPause = 30 * time.Second
	// maxRetryAfter bounds the wait that a server can ask for: that of the official
	// client.
	maxRetryAfter = 120 * time.Second
)

// pause returns how long to wait after attempt n has failed: twice as long each time,
// less up to half of it by chance so that clients do not come back all at once, and
// no less than the server asks for.
func (c *Client) pause(n int, after time.Duration) time.Duration {
	pause := min(c.options.Backoff<<min(n-1, 16), maxPause)
	pause -= time.Duration(rand.Int64N(int64(pause)/2 + 1))
	return max(pause, min(after, maxRetryAfter))
}

// retryAfter reads the header of that name: seconds, or a date (RFC 9110, 10.2.3).
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(text); err == nil {
		return max(0, date.Sub(now))
	}
	return 0
}
