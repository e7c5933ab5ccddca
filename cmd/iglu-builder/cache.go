package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"iglu.sh/builder/internal/devcache"
)

// cacheTokenEnv is the variable that holds the API key where no file does.
const cacheTokenEnv = "IGLU_CACHE_TOKEN"

// cacheSettings are the flags of 'iglu-builder cache'.
type cacheSettings struct {
	listen    string
	folder    string
	names     []string
	tokenFile string
	private   bool
}

func cacheCommand() *cobra.Command {
	var s cacheSettings
	command := &cobra.Command{
		Use:   "cache",
		Short: "Run a binary cache for development and tests",
		Long: `Cache serves the protocol of cachix-compatible caches, and Nix, from a folder. It is
strict: it takes only what is right in every respect that can be checked.

The API key stands in the file that --token-file names, or in ` + cacheTokenEnv + `.`,
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(command *cobra.Command, _ []string) error {
			token, err := s.token()
			if err != nil {
				return &exitError{exitUsage, err}
			}
			ctx, stop := signal.NotifyContext(command.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			log := slog.New(slog.NewTextHandler(command.ErrOrStderr(), nil))
			if err := serveCache(ctx, s, token, log); err != nil {
				return &exitError{1, err}
			}
			return nil
		},
	}
	flags := command.Flags()
	flags.StringVar(&s.listen, "listen", "127.0.0.1:3001", "`address` to listen on; port 0 takes a free one")
	flags.StringVar(&s.folder, "folder", "cache", "`folder` that keeps everything; made if there is none")
	flags.StringSliceVar(&s.names, "name", []string{"default"}, "`name` of a cache; once for each")
	flags.StringVar(&s.tokenFile, "token-file", "", "`file` that holds the API key")
	flags.BoolVar(&s.private, "private", false, "ask for the API key to read as well")
	return command
}

// token returns the API key.
func (s cacheSettings) token() (string, error) {
	token := os.Getenv(cacheTokenEnv)
	if s.tokenFile != "" {
		text, err := os.ReadFile(s.tokenFile)
		if err != nil {
			return "", fmt.Errorf("read the API key: %w", err)
		}
		token = strings.TrimSpace(string(text))
	}
	if token == "" {
		return "", errors.New("there is no API key\nhint: name a file with --token-file, or set " + cacheTokenEnv)
	}
	return token, nil
}

// serveCache runs the cache until ctx ends.
func serveCache(ctx context.Context, s cacheSettings, token string, log *slog.Logger) error {
	cache, err := devcache.New(devcache.Options{Folder: s.folder, Token: token, Names: s.names, Private: s.private})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", s.listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", s.listen, err)
	}
	for _, name := range s.names {
		log.Info("serving a cache", "url", fmt.Sprintf("http://%s/%s", listener.Addr(), name), "folder", s.folder)
	}
	return serveHTTP(ctx, listener, cache, func() {}, log)
}
