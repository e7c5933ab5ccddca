package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/metrics"
	"iglu.sh/builder/internal/tick"
	"iglu.sh/builder/internal/web"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/wsapi"
)

const (
	// headerTimeout bounds how long a client may take to send a request's header.
	headerTimeout = 10 * time.Second
	// shutdownTimeout bounds the wait for plain requests when the server stops.
	shutdownTimeout = 5 * time.Second
	// pruneInterval is how often logs are removed that have become too old.
	pruneInterval = time.Hour
)

// Serve runs the server until ctx ends, and after that for as long as the running job takes:
// at most the time of grace, and only until force ends. program is what runs in the
// containers.
func Serve(ctx, force context.Context, s Settings, program string, build metrics.Build, log *slog.Logger) error {
	token, err := ReadToken(s.TokenFile)
	if err != nil {
		return err
	}
	nix, err := readNixConf(s.NixConfFile)
	if err != nil {
		return err
	}
	nix.AcceptFlakeConfig = s.FlakeConfig
	// First of all: it also keeps a second builder out that is started by mistake.
	records, err := history.Open(s.folder("history.db"))
	if err != nil {
		return hintAtFolder(err)
	}
	defer records.Close()
	logs, err := joblog.Open(s.folder("logs"), s.KeepLogs, s.MaxLogBytes)
	if err != nil {
		return hintAtFolder(err)
	}
	if err := records.Prune(logs.Has); err != nil {
		return err
	}
	numbers := metrics.New(build, wsapi.Refusals)
	logs.Written = numbers.LogWritten
	builder, err := newBuilder(s, nix, program, numbers, logs, records, log)
	if err != nil {
		return err
	}
	defer builder.Close()
	numbers.Stores(builder.StoresSize)
	page := web.New(records, logs, builder, web.Options{
		Commands:      s.AllowedCommands,
		ClientTimeout: s.ClientTimeout,
		Token:         token != "",
	}, log)
	defer page.Close()
	api := wsapi.NewServer(builder, wsapi.Options{
		Page:            page,
		Token:           token,
		AllowedOrigins:  s.AllowedOrigins,
		Commands:        s.AllowedCommands,
		RequestTimeout:  s.RequestTimeout,
		MaxRequestBytes: s.MaxRequestBytes,
		ClientTimeout:   s.ClientTimeout,
		IsOfJobs:        builder.IsOfJobs,
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
	log.Info("listening", "addr", listener.Addr().String(), "image", s.JobImage, "instance", s.Instance)
	defer context.AfterFunc(ctx, func() {
		defer stopServing()
		notify(daemon.SdNotifyStopping, log)
		grace, cancel := context.WithTimeout(force, s.ShutdownGrace)
		defer cancel()
		api.Drain(grace)
	})()
	notify(daemon.SdNotifyReady, log)
	err = serveHTTP(serving, listener, api, page.Close, log)
	api.Close()
	return err
}

// newBuilder returns what runs the jobs.
func newBuilder(s Settings, nix orchestrator.NixSettings, program string, numbers *metrics.Metrics, logs *joblog.Store, records *history.History, log *slog.Logger) (*orchestrator.Builder, error) {
	return orchestrator.NewDocker(orchestrator.Options{
		Host:          s.EngineHost,
		Instance:      s.Instance,
		Image:         s.JobImage,
		Pull:          s.Pull,
		Stores:        s.Stores(),
		Network:       s.JobNetwork,
		JobUser:       s.JobUser,
		FetchTimeout:  s.FetchTimeout,
		GitDepth:      s.GitDepth,
		Push:          orchestrator.Push{Uploads: s.PushUploads, PartSize: s.PushPartSize, Upstream: s.PushUpstream},
		Nix:           nix,
		Program:       program,
		Limits:        s.Limits,
		Deadlines:     s.Deadlines,
		Sandbox:       s.Sandbox,
		SandboxUnsafe: s.SandboxUnsafe,
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
func listen(s Settings, log *slog.Logger) (net.Listener, error) {
	plain, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", s.Listen, err)
	}
	listener, err := withTLS(wsapi.Crowd(plain), s.TLSCert, s.TLSKey, log)
	if err != nil {
		plain.Close()
		return nil, err
	}
	if addr, ok := plain.Addr().(*net.TCPAddr); ok && !addr.IP.IsLoopback() && s.TokenFile == "" {
		log.Warn("no token is set (IGLU_TOKEN_FILE): whoever reaches this address runs programs on the container engine; "+
			"behind a published port that can be a job, too, which looks like a client of the machine: publish it on 127.0.0.1 only, or set a token",
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
