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

// This file asks the builder's HTTP API; docs/api.md is the table of it.

// maxAnswer bounds what an answer may hold that is no log.
const maxAnswer = 1 << 20

// httpClient has no bound for a whole answer: that of a job's messages takes as long as the job.
var httpClient = &http.Client{Transport: &http.Transport{
	Proxy:                 http.ProxyFromEnvironment,
	ResponseHeaderTimeout: dialTimeout,
	TLSHandshakeTimeout:   dialTimeout,
	DisableKeepAlives:     true,
	DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
}}

// jobsPath is where the builder's API has its jobs.
const jobsPath = "/api/v1/jobs"

// api returns the address of a part of the builder's API, whose WebSocket has the address u.
func api(u *url.URL, path string) *url.URL {
	scheme := map[string]string{"ws": "http", "wss": "https"}[u.Scheme]
	return &url.URL{Scheme: scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, schemas.BuildPath) + path}
}

// request asks the builder's API with the token that it wants, and returns the answer.
func request(ctx context.Context, method string, u *url.URL, token string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := httpClient.Do(request)
	if operation, ok := errors.AsType[*net.OpError](err); ok && operation.Op == "dial" {
		return nil, noBuilder(u, err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %s: %w", u, err)
	}
	return response, nil
}

// ask asks the builder's API. An answer that is an error is returned as that, and the body closed.
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

// refusal returns what an answer says that is an error.
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
		return errors.New(sentences(&said))
	case response.StatusCode == http.StatusNotFound && u.Path == api(o.URL, jobsPath).Path,
		response.StatusCode == http.StatusMethodNotAllowed:
		return fmt.Errorf("%s is not a builder that takes jobs without a connection: it answers %s", u, termtext.Visible(response.Status))
	}
	return fmt.Errorf("%s refuses: %s", u, termtext.Visible(strings.TrimSpace(string(text))))
}

// Detach sends a job that goes on without its client, and returns its id and the whole answer.
func Detach(ctx context.Context, o Options) (id string, answer []byte, err error) {
	job := o.Job
	if !o.NoColor {
		job = withColors(job) // its page shows them
	}
	err = o.untilTaken(ctx, func() error {
		response, err := o.ask(ctx, http.MethodPost, api(o.URL, jobsPath), job)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if answer, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer)); err != nil {
			return fmt.Errorf("read the builder's answer: %w", err)
		}
		var taken struct {
			ID string `json:"id"`
		}
		if json.Unmarshal(answer, &taken) != nil || taken.ID == "" {
			return fmt.Errorf("the builder's answer does not say which job it has taken: %s", termtext.Visible(string(answer)))
		}
		id = taken.ID
		return nil
	})
	return termtext.Visible(id), bytes.TrimSpace(answer), err
}

// Cancel cancels a job.
func Cancel(ctx context.Context, o Options, job string) error {
	response, err := o.ask(ctx, http.MethodPost, api(o.URL, jobsPath+"/"+job+"/cancel"), nil)
	if err != nil {
		return err
	}
	return response.Body.Close()
}
