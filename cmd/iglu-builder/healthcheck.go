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
	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/buildclient"
	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/schemas"
)

const (
	// healthTimeout bounds the whole check. It is less than the 5 s after which the engine kills
	// the healthcheck of its image: so the engine gets to know the reason.
	healthTimeout = 4 * time.Second
	// maxReason is how many bytes of an answer are shown. The builder's own are a sentence.
	maxReason = 512
	// exitUnhealthy is the exit code of every failure. An engine knows no other: Docker
	// reserves 2.
	exitUnhealthy = 1
)

func healthcheckCommand() *cobra.Command {
	var address string
	command := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask a builder whether it takes jobs",
		Long: `Healthcheck exits with 0 if the builder's /readyz answers 200. Else it exits with 1, and says
why on standard error.

Without --url it asks the builder in the same container or on the same machine, at the address that
IGLU_LISTEN names. It uses TLS if IGLU_TLS_CERT is set, and does not verify the certificate then.`,
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

// healthTarget returns what is asked for a builder's health, and by which client: the builder at
// an address or, if that is empty, the one that the environment sets.
func healthTarget(address string) (*http.Client, *url.URL, error) {
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{
		Transport: transport,
		// The builder itself answers. An answer that leads elsewhere is not its own.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if address == "" {
		// The certificate is for the name that others call the builder by. Nobody else
		// listens where this builder does.
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

// ownTarget returns the URL by which a builder of the same environment reaches itself.
func ownTarget() (*url.URL, error) {
	var s server.Settings
	all, used := pflag.NewFlagSet("", pflag.ContinueOnError), pflag.NewFlagSet("", pflag.ContinueOnError)
	s.Register(all)
	for _, name := range []string{"listen", "tls-cert"} {
		used.AddFlag(all.Lookup(name))
	}
	if err := server.ApplyEnviron(used); err != nil {
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
		return nil, errors.New("IGLU_LISTEN takes any free port\nhint: name the builder's address with --url; its log says which it is")
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1" // one of all addresses, also where they are listened on as [::]
	}
	target := &url.URL{Scheme: "http", Host: net.JoinHostPort(host, strconv.Itoa(port)), Path: "/readyz"}
	if s.TLSCert != "" {
		target.Scheme = "https"
	}
	return target, nil
}

// checkHealth returns nil if the target answers 200, or else why not.
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
	if failed, ok := errors.AsType[*url.Error](err); ok { // which names the URL again
		return fmt.Errorf("no builder answers at %s: %w", target, failed.Err)
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	reason, _ := io.ReadAll(io.LimitReader(response.Body, maxReason)) // what has come is enough
	return fmt.Errorf("%s answers %s: %s", target, termtext.Visible(response.Status),
		cmp.Or(termtext.Visible(string(bytes.TrimSpace(reason))), "(nothing more)"))
}
