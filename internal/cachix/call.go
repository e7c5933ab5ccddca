package cachix

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// A call is one request of the protocol with its answer.
type call struct {
	doing  string // for errors: "start the upload of NAME to"
	method string
	url    string
	body   any  // becomes JSON; nil for none
	answer any  // gets the answer's JSON; nil if there is none to read
	lookUp bool // it asks what the cache is
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
		return c.failed(ctx, call.doing, nil, err)
	}
	if call.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set("Accept", "application/json")
	c.authorize(request)
	response, text, err := c.exchange(request)
	if err != nil {
		return c.failed(ctx, call.doing, request, err)
	}
	if response.StatusCode/100 != 2 {
		failure := c.answered(call.doing, response, text)
		failure.lookUp = call.lookUp
		return failure
	}
	if call.answer == nil {
		c.answeredBy(request.URL.Host)
		return nil
	}
	if json.Unmarshal(text, call.answer) != nil {
		return &Error{Kind: NotCachix, Doing: call.doing, Cache: c.shown, Status: response.StatusCode, Detail: c.excerpt(text)}
	}
	c.answeredBy(request.URL.Host)
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
