package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/wsapi"
)

func serveCommand() *cobra.Command {
	var s settings
	command := &cobra.Command{
		Use:   "serve",
		Short: "Run the builder's server",
		Long: `Serve takes jobs on the WebSocket endpoint /api/v1/build and runs each in a container.

Every flag is an environment variable as well: --job-image is IGLU_JOB_IMAGE. The
flag counts where both are set. The container engine is the one that DOCKER_HOST and
the other variables of Docker's clients name.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := applyEnviron(command.Flags()); err != nil {
				return &exitError{exitUsage, err}
			}
			ctx, stop := signal.NotifyContext(command.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			if err := serve(ctx, s, selfProgram, s.logger(command.ErrOrStderr())); err != nil {
				return &exitError{1, err}
			}
			return nil
		},
	}
	s.register(command.Flags())
	return command
}

const (
	// selfProgram is the running program, even where its file has been replaced.
	selfProgram = "/proc/self/exe"
	// headerTimeout bounds how long a client may take to send a request's header.
	headerTimeout = 10 * time.Second
	// shutdownTimeout bounds the wait for plain requests when the server stops.
	shutdownTimeout = 5 * time.Second
)

// serve runs the server until ctx ends. program is what runs in the containers.
func serve(ctx context.Context, s settings, program string, log *slog.Logger) error {
	logs, err := joblog.Open(filepath.Join(s.stateDir, s.instance, "logs"), s.keepLogs, s.maxLogBytes)
	if err != nil {
		return fmt.Errorf("%w\nhint: IGLU_STATE_DIR names a folder that the builder may write to", err)
	}
	builder, err := orchestrator.NewDocker(orchestrator.Options{
		Instance: s.instance,
		Image:    s.jobImage,
		Network:  s.jobNetwork,
		Push:     orchestrator.Push{Uploads: s.pushUploads, PartSize: s.pushPartSize, Upstream: s.pushUpstream},
		Program:  program,
		Limits:   s.limits,

		Deadlines: s.deadlines,
	}, logs, log)
	if err != nil {
		return err
	}
	defer builder.Close()
	api := wsapi.NewServer(builder, wsapi.Options{
		Commands:        s.allowedCommands,
		RequestTimeout:  s.requestTimeout,
		MaxRequestBytes: s.maxRequestBytes,
		ClientTimeout:   s.clientTimeout,
	}, log)

	listener, err := net.Listen("tcp", s.listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", s.listen, err)
	}
	// Only now: a builder that is started a second time by mistake has not come this far.
	if err := builder.Clean(ctx, func(kind, name string) {
		log.Info("removed what an earlier life left", "kind", kind, "name", name)
	}); err != nil {
		log.Warn("cannot remove what an earlier life may have left", "err", err)
	}
	log.Info("listening", "addr", listener.Addr().String(), "image", s.jobImage, "instance", s.instance)
	err = serveHTTP(ctx, listener, api, log)
	api.Close()
	return err
}

// serveHTTP answers requests until ctx ends, and those under way a little longer.
func serveHTTP(ctx context.Context, listener net.Listener, handler http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		log.Info("shutting down")
		timeout, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if server.Shutdown(timeout) != nil {
			server.Close() // a request that does not end
		}
		<-served
		return nil
	}
}
