// Devcache is a cachix-compatible binary cache for development and tests. It keeps its paths in a folder.
// It is strict: it rejects every upload in which a check finds an error. With --kind it behaves as Iglu
// Cache does.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"iglu.sh/builder/test/kit/devcache"
)

// tokenEnv is the environment variable with the API key, for use without --token-file.
const tokenEnv = "IGLU_CACHE_TOKEN"

const (
	// headerTimeout limits how long a client may take to send a request's header.
	headerTimeout = 10 * time.Second
	// shutdownTimeout limits the wait for open requests when the cache stops.
	shutdownTimeout = 5 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "devcache:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string) error {
	flags := pflag.NewFlagSet("devcache", pflag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:3001", "`address` to listen on; port 0 takes a free one")
	folder := flags.String("folder", "cache", "`folder` that keeps everything; created if missing")
	names := flags.StringSlice("name", []string{"default"}, "`name` of a cache; repeat for several")
	tokenFile := flags.String("token-file", "", "`file` with the API key (default: the variable "+tokenEnv+")")
	private := flags.Bool("private", false, "require the API key for reading too")
	kindName := flags.String("kind", devcache.Strict.String(), "`kind` of cache: strict, or Iglu Cache's standalone or monorepo server")
	root := flags.String("root", "", "`URL` at the beginning of upload addresses (kinds standalone and monorepo; default: the host in the request)")
	if err := flags.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	token, err := readToken(*tokenFile)
	if err != nil {
		return err
	}
	kind, err := devcache.ParseKind(*kindName)
	if err != nil {
		return err
	}
	cache, err := devcache.New(devcache.Options{Folder: *folder, Token: token, Names: *names, Private: *private, Kind: kind, Root: *root})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", *listen, err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	for _, name := range *names {
		log.Info("serving a cache", "url", fmt.Sprintf("http://%s/%s", listener.Addr(), name), "folder", *folder)
	}
	return serve(ctx, listener, cache)
}

// readToken returns the API key.
func readToken(name string) (string, error) {
	token := os.Getenv(tokenEnv)
	if name != "" {
		text, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("read the API key: %w", err)
		}
		token = strings.TrimSpace(string(text))
	}
	if token == "" {
		return "", errors.New("no API key is set\nhint: use --token-file FILE, or set " + tokenEnv)
	}
	return token, nil
}

func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	timeout, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := server.Shutdown(timeout)
	<-served
	return err
}
