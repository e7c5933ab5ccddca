package buildclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/schemas"
)

// This file has the requests to the builder's HTTP API, which docs/api.md describes.

// maxAnswer is the largest size of an answer that is not a log, in bytes.
const maxAnswer = 1 << 20

// httpClient has no time limit for a whole answer: that with a job's messages takes as long as the job.
var httpClient = &http.Client{
	Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		ResponseHeaderTimeout: dialTimeout,
		TLSHandshakeTimeout:   dialTimeout,
		DisableKeepAlives:     true,
		DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
	},
	// A redirect would make a GET of the POST with a job. WebSockets do not follow redirects either.
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// api returns the URL of a path of the builder's API. u is the URL of the builder's WebSocket.
func api(u *url.URL, path string) *url.URL {
	scheme := map[string]string{"ws": "http", "wss": "https"}[u.Scheme]
	return &url.URL{Scheme: scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, schemas.BuildPath) + path}
}

// request sends a request with the builder's token, and returns the answer.
func request(ctx context.Context, method string, u *url.URL, token string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := httpClient.Do(request)
	if err != nil {
		return nil, notConnected(u, err)
	}
	return response, nil
}

// ask sends a request. If the answer's status is an error, ask closes the body and returns an error.
func (o Options) ask(ctx context.Context, method string, u *url.URL, body []byte) (*http.Response, error) {
	response, err := request(ctx, method, u, o.Token, body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode < 300 {
		return response, nil
	}
	defer response.Body.Close()
	return nil, o.refusal(u, response)
}

// refusal returns the error that an answer describes.
func (o Options) refusal(u *url.URL, response *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	var said schemas.Response
	switch {
	case response.StatusCode == http.StatusUnauthorized:
		return unauthorized(u, o.Token)
	case json.Unmarshal(text, &said) == nil && said == schemas.Busy():
		return errBusy
	case response.StatusCode == http.StatusRequestEntityTooLarge:
		return errTooLarge
	case said.Error != "":
		o.addFlagNames(&said)
		return errors.New(sentences(&said))
	case response.Request.Method == http.MethodPost && u.Path == api(o.URL, schemas.JobsPath).Path && (response.StatusCode == http.StatusNotFound || response.StatusCode == http.StatusMethodNotAllowed):
		return fmt.Errorf("%s is not a builder that accepts jobs without a connection: it answers %s", u, termtext.Visible(response.Status))
	case response.StatusCode < 400 || !strings.HasPrefix(response.Header.Get("Content-Type"), "text/plain"): // not a builder's sentence
		return notBuilder(u, response, text)
	}
	return fmt.Errorf("%s refuses: %s", u, termtext.Visible(strings.TrimSpace(string(text))))
}

// Detach sends a job that continues without its client. It returns the job's id and the whole answer. Its error is an
// Interrupted if ctx has ended before that.
func Detach(ctx context.Context, o Options) (id string, answer []byte, err error) {
	job := o.Job
	if !o.NoColor {
		job = withColors(job) // the job's page shows them
	}
	err = o.untilTaken(ctx, func() error {
		response, err := o.ask(ctx, http.MethodPost, api(o.URL, schemas.JobsPath), job)
		if err != nil {
			return orInterrupted(ctx, err, notAnswered)
		}
		defer response.Body.Close()
		if answer, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer)); err != nil {
			return orInterrupted(ctx, fmt.Errorf("read the builder's answer: %w", err), notAnswered)
		}
		var taken struct {
			ID string `json:"id"`
		}
		if json.Unmarshal(answer, &taken) != nil || taken.ID == "" {
			return fmt.Errorf("the builder's answer has no job's id: %s", termtext.Visible(string(answer)))
		}
		id = taken.ID
		return nil
	})
	return termtext.Visible(id), bytes.TrimSpace(answer), err
}

// Cancel asks the builder to cancel a job. It does not wait for the job's end.
func Cancel(ctx context.Context, o Options, job string) error {
	response, err := o.ask(ctx, http.MethodPost, api(o.URL, schemas.JobsPath+"/"+job+"/cancel"), nil)
	if err != nil {
		return err
	}
	return response.Body.Close()
}
