package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	"iglu.sh/builder/internal/tick"
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
	// pruneInterval is how often logs are removed that have become too old.
	pruneInterval = time.Hour
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
// at most the time of grace, and only until force ends. program is what runs in the
// containers.
func serve(ctx, force context.Context, s settings, program string, log *slog.Logger) error {
	token, err := readToken(s.tokenFile)
	if err != nil {
		return err
	}
	// First of all: it also keeps a second builder out that is started by mistake.
	records, err := history.Open(s.folder("history.db"))
	if err != nil {
		return hintAtFolder(err)
	}
	defer records.Close()
	logs, err := joblog.Open(s.folder("logs"), s.keepLogs, s.maxLogBytes)
	if err != nil {
		return hintAtFolder(err)
	}
	if err := records.Prune(logs.Has); err != nil {
		return err
	}
	numbers := metrics.New(metricsBuild(), wsapi.Refusals)
	logs.Written = numbers.LogWritten
	builder, err := newBuilder(s, program, numbers, logs, records, log)
	if err != nil {
		return err
	}
	defer builder.Close()
	numbers.Stores(builder.StoresSize)
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
	if err := tidyUp(ctx, builder, log); err != nil {
		listener.Close()
		return err
	}

	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	defer inBackground(serving, builder.Tend)()
	defer tick.Every(pruneInterval, func() {
		if err := errors.Join(logs.Prune(), records.Prune(logs.Has)); err != nil {
			log.Warn("cannot remove old logs and records", "err", err)
		}
	})()
	log.Info("listening", "addr", listener.Addr().String(), "image", s.jobImage, "instance", s.instance)
	defer context.AfterFunc(ctx, func() {
		defer stopServing()
		log.Info("taking no more jobs", "grace", s.shutdownGrace)
		notify(daemon.SdNotifyStopping, log)
		grace, cancel := context.WithTimeout(force, s.shutdownGrace)
		defer cancel()
		api.Drain(grace)
	})()
	notify(daemon.SdNotifyReady, log)
	err = serveHTTP(serving, listener, api, page.Close, log)
	api.Close()
	return err
}

// newBuilder returns what runs the jobs.
func newBuilder(s settings, program string, numbers *metrics.Metrics, logs *joblog.Store, records *history.History, log *slog.Logger) (*orchestrator.Builder, error) {
	return orchestrator.NewDocker(orchestrator.Options{
		Host:          s.engineHost,
		Instance:      s.instance,
		Image:         s.jobImage,
		Pull:          s.pull,
		Stores:        s.stores(),
		Network:       s.jobNetwork,
		JobUser:       s.jobUser,
		Push:          orchestrator.Push{Uploads: s.pushUploads, PartSize: s.pushPartSize, Upstream: s.pushUpstream},
		Program:       program,
		Limits:        s.limits,
		Deadlines:     s.deadlines,
		Sandbox:       s.sandbox,
		SandboxUnsafe: s.sandboxUnsafe,
		Observer:      numbers,
	}, logs, records, log)
}

// tidyUp removes what an earlier run of the builder has left, and returns why jobs can never
// run as the builder is set up. An engine that is away is no reason: it may come back.
func tidyUp(ctx context.Context, builder *orchestrator.Builder, log *slog.Logger) error {
	if err := builder.Clean(ctx, func(kind, name string) {
		log.Info("removed what an earlier run left", "kind", kind, "name", name)
	}); err != nil {
		log.Warn("cannot remove what an earlier run may have left", "err", err)
	}
	return builder.Check(ctx)
}

// hintAtFolder adds to an error of a file which setting its folder comes from.
func hintAtFolder(err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%w\nhint: IGLU_STATE_DIR names a folder that the builder may write to", err)
	}
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
	if addr, ok := plain.Addr().(*net.TCPAddr); ok && !addr.IP.IsLoopback() && s.tokenFile == "" {
		log.Warn("no token is set (IGLU_TOKEN_FILE): whoever reaches this address runs programs on the container engine",
			"addr", addr.String())
	}
	return listener, nil
}

// notify tells systemd how the server is, if systemd has started it.
func notify(state string, log *slog.Logger) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("cannot notify systemd", "err", err)
	}
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
