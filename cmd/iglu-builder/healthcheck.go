package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"iglu.sh/builder/internal/buildclient"
	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/schemas"
)

const (
	// healthTimeout limits the whole check. It is less than the 5 s after which the engine kills the health
	// check of the builder's image, so the engine gets the reason of a failure.
	healthTimeout = 4 * time.Second
	// maxReason is how many bytes of an answer are shown. The builder's own answers are one sentence.
	maxReason = 512
	// exitUnhealthy is the exit code of every failure. Docker defines only 0 and 1 for health checks.
	exitUnhealthy = 1
)

func healthcheckCommand() *cobra.Command {
	var address string
	command := &cobra.Command{
		Use:   "healthcheck",
		Short: "Check that a builder accepts jobs",
		Long: `Healthcheck exits with 0 if the builder's /readyz answers 200. Otherwise it exits with 1, and prints
the reason on standard error.

Without --url it checks the builder in the same container or on the same machine, at the address in
IGLU_LISTEN. It uses TLS if IGLU_TLS_CERT is set, and does not verify the certificate then.`,
		Example: `  iglu-builder healthcheck
  iglu-builder healthcheck --url https://builder.example.com`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			client, target, err := healthTarget(address)
			if err == nil {
				err = checkHealth(command.Context(), client, target)
			}
			if err != nil {
				return &exitError{exitUnhealthy, err}
			}
			return nil
		},
	}
	command.Flags().StringVar(&address, "url", "", "`URL` of the builder, or its HOST:PORT (default the address in IGLU_LISTEN)")
	return command
}

// healthTarget returns the URL to check and an HTTP client for it. If the address is empty, it is that of the
// builder that the environment configures.
func healthTarget(address string) (*http.Client, *url.URL, error) {
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{
		Transport: transport,
		// A redirect is not an answer of the builder.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if address == "" {
		// The certificate is for the builder's public name, not for this address. No other program listens
		// here.
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
		target, err := ownTarget()
		return client, target, err
	}
	transport.Proxy = http.ProxyFromEnvironment
	target, err := buildclient.ParseAddress(address)
	if err != nil {
		return nil, nil, fmt.Errorf("--url: %w", err)
	}
	target.Scheme = map[string]string{"ws": "http", "wss": "https"}[target.Scheme]
	target.Path = strings.TrimRight(strings.TrimSuffix(target.Path, schemas.BuildPath), "/") + "/readyz"
	return client, target, nil
}

// ownTarget returns the URL of the builder that the environment configures, on this machine.
func ownTarget() (*url.URL, error) {
	var s server.Settings
	if err := server.ApplyEnviron(settingFlags(&s, "listen", "tls-cert")); err != nil {
		return nil, err
	}
	host, service, err := net.SplitHostPort(s.Listen)
	if err != nil {
		return nil, err
	}
	port, err := net.LookupPort("tcp", service)
	if err != nil {
		return nil, err
	}
	if port == 0 {
		return nil, errors.New("IGLU_LISTEN has port 0, which means any free port\nhint: give the builder's address with --url; the builder's log says which it is")
	}
	target := &url.URL{Scheme: "http", Host: net.JoinHostPort(hostOnThisMachine(host), strconv.Itoa(port)), Path: "/readyz"}
	if s.TLSCert != "" {
		target.Scheme = "https"
	}
	return target, nil
}

// hostOnThisMachine returns the host at which programs on this machine reach one that listens on a host.
func hostOnThisMachine(listen string) string {
	if ip, err := netip.ParseAddr(listen); listen == "" || err == nil && ip.IsUnspecified() {
		return "127.0.0.1" // on all addresses, IPv6 included, it is reached by this one too
	}
	return listen
}

// checkHealth returns nil if the target answers 200, otherwise an error with the reason.
func checkHealth(ctx context.Context, client *http.Client, target *url.URL) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s does not answer within %s", target, healthTimeout)
	}
	if failed, ok := errors.AsType[*url.Error](err); ok { // which repeats the URL
		return fmt.Errorf("no builder answers at %s: %w", target, failed.Err)
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	reason, _ := io.ReadAll(io.LimitReader(response.Body, maxReason)) // a part of the answer is enough
	return fmt.Errorf("%s answers %s: %s", target, termtext.Visible(response.Status),
		cmp.Or(termtext.Visible(string(bytes.TrimSpace(reason))), "(nothing more)"))
}
