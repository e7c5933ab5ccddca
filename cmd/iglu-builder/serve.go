package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/metrics"
	"iglu.sh/builder/internal/web"
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
flag counts where both are set. LOG_LEVEL and JSON_LOGGING, the Iglu stack's, count
for --log-level and --log-format where neither is. The container engine is the one that
DOCKER_HOST and the other variables of Docker's clients name.

On SIGTERM or Ctrl-C it takes no more jobs, lets the running one go on for
--shutdown-grace, cancels it then, and exits with 0. A second signal cancels it at once.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := applyEnviron(command.Flags()); err != nil {
				return &exitError{exitUsage, err}
			}
			first, second, stop := onSignals(command.Context())
			defer stop()
			if err := serve(first, second, s, selfProgram, s.logger(command.ErrOrStderr())); err != nil {
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

// onSignals returns a context that ends with the first signal to stop, and one that ends
// with the second.
func onSignals(ctx context.Context) (first, second context.Context, stop func()) {
	first, endFirst := context.WithCancel(ctx)
	second, endSecond := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range signals {
			if first.Err() != nil {
				endSecond()
			}
			endFirst()
		}
	}()
	return first, second, func() {
		signal.Stop(signals)
		close(signals)
		<-done
		endFirst()
		endSecond()
	}
}

// serve runs the server until ctx ends, and after that for as long as the running job takes:
// at most the time of grace, and only until now ends. program is what runs in the
// containers.
func serve(ctx, now context.Context, s settings, program string, log *slog.Logger) error {
	logs, err := joblog.Open(s.folder("logs"), s.keepLogs, s.maxLogBytes)
	if err != nil {
		return fmt.Errorf("%w\nhint: IGLU_STATE_DIR names a folder that the builder may write to", err)
	}
	numbers := metrics.New(metricsBuild(), wsapi.Refusals)
	logs.Written = numbers.LogWritten
	records, err := openHistory(s.folder("history.db"), logs)
	if err != nil {
		return err
	}
	defer records.Close()
	builder, err := orchestrator.NewDocker(orchestrator.Options{
		Host:     s.engineHost,
		Instance: s.instance,
		Image:    s.jobImage,
		Pull:     s.pull,
		Stores:   s.stores(),
		Network:  s.jobNetwork,
		Push:     orchestrator.Push{Uploads: s.pushUploads, PartSize: s.pushPartSize, Upstream: s.pushUpstream},
		Program:  program,
		Limits:   s.limits,

		Deadlines: s.deadlines,

		Sandbox:       s.sandbox,
		SandboxUnsafe: s.sandboxUnsafe,

		Observer: numbers,
	}, logs, records, log)
	if err != nil {
		return err
	}
	defer builder.Close()
	numbers.Stores(builder.StoresSize)
	token, err := readToken(s.tokenFile)
	if err != nil {
		return err
	}
	page := web.New(records, logs, builder, web.Options{
		Commands:      s.allowedCommands,
		ClientTimeout: s.clientTimeout,
		Token:         token != "",
	}, log)
	defer page.Close()
	api := wsapi.NewServer(builder, wsapi.Options{
		Page:            page,
		Token:           token,
		AllowedOrigins:  s.allowedOrigins,
		Commands:        s.allowedCommands,
		RequestTimeout:  s.requestTimeout,
		MaxRequestBytes: s.maxRequestBytes,
		ClientTimeout:   s.clientTimeout,
		Metrics:         numbers.Handler(),
		Refused:         numbers.Refused,
	}, log)

	listener, err := listen(s, log)
	if err != nil {
		return err
	}
	// Only now: a builder that is started a second time by mistake has not come this far.
	if err := builder.Clean(ctx, func(kind, name string) {
		log.Info("removed what an earlier life left", "kind", kind, "name", name)
	}); err != nil {
		log.Warn("cannot remove what an earlier life may have left", "err", err)
	}
	if err := builder.Check(ctx); err != nil {
		listener.Close()
		return err
	}
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	defer inBackground(serving, builder.Tend)()
	log.Info("listening", "addr", listener.Addr().String(), "image", s.jobImage, "instance", s.instance)
	defer context.AfterFunc(ctx, func() {
		defer stopServing()
		log.Info("taking no more jobs", "grace", s.shutdownGrace)
		notify(daemon.SdNotifyStopping, log)
		grace, cancel := context.WithTimeout(now, s.shutdownGrace)
		defer cancel()
		api.Drain(grace)
	})()
	notify(daemon.SdNotifyReady, log)
	handler := http.Handler(api)
	if token == "" && isLoopback(listener.Addr()) {
		handler = wsapi.OnlyByLocalNames(handler, s.allowedOrigins)
	}
	err = serveHTTP(serving, listener, handler, page.Close, log)
	api.Close()
	return err
}

// inBackground runs work until the function that it returns is called, which waits for it.
func inBackground(ctx context.Context, work func(ctx context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		work(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// listen returns what the server is reached by, and warns if that is too much.
func listen(s settings, log *slog.Logger) (net.Listener, error) {
	plain, err := net.Listen("tcp", s.listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", s.listen, err)
	}
	listener, err := withTLS(wsapi.Crowd(plain), s.tlsCert, s.tlsKey, log)
	if err != nil {
		plain.Close()
		return nil, err
	}
	if !isLoopback(plain.Addr()) && s.tokenFile == "" {
		log.Warn("no token is set (IGLU_TOKEN_FILE): whoever reaches this address runs programs on the container engine",
			"addr", plain.Addr().String())
	}
	return listener, nil
}

// isLoopback reports whether only the machine itself reaches an address.
func isLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// notify tells systemd how the server is, if systemd has started it.
func notify(state string, log *slog.Logger) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("cannot notify systemd", "err", err)
	}
}

// openHistory opens the history of the jobs that have a log.
func openHistory(name string, logs *joblog.Store) (*history.History, error) {
	records, err := history.Open(name)
	if err != nil {
		return nil, err
	}
	if err := records.Prune(logs.Has); err != nil {
		records.Close()
		return nil, err
	}
	return records, nil
}

// serveHTTP answers requests until ctx ends, and those under way a little longer. It calls
// stopWatching then, because those of watchers would not end.
func serveHTTP(ctx context.Context, listener net.Listener, handler http.Handler, stopWatching func(), log *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ConnContext:       wsapi.WithConn,
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	server.RegisterOnShutdown(stopWatching)
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
