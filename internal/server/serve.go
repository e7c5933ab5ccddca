package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"iglu.sh/builder/internal/buildid"
	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/metrics"
	"iglu.sh/builder/internal/nixconf"
	"iglu.sh/builder/internal/tick"
	"iglu.sh/builder/internal/web"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/orchestrator/docker"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/wsapi"
	"iglu.sh/builder/wsapi/auth"
	"iglu.sh/builder/wsapi/connlimit"
)

const (
	// headerTimeout limits the time in which a client sends a request's header.
	headerTimeout = 10 * time.Second
	// maxHeader is the largest size of a request's header in bytes. Anyone can send one, on as many connections as
	// there may be. A proxy's header, with the cookies of everything on a host, is smaller.
	maxHeader = 64 << 10
	// shutdownTimeout limits the wait for plain requests when the server stops.
	shutdownTimeout = 5 * time.Second
	// pruneInterval is how often old logs are removed.
	pruneInterval = time.Hour
)

// Serve runs the server until ctx ends. Running jobs may then continue for the time ShutdownGrace, or until
// force ends. program is the file of the program that runs in the containers.
func Serve(ctx, force context.Context, s Settings, program string, build metrics.Build, log *slog.Logger) error {
	token, err := s.token()
	if err != nil {
		return err
	}
	nix, err := readNixConf(s.NixConfFile)
	if err != nil {
		return err
	}
	nix.AcceptFlakeConfig = s.FlakeConfig
	s.Store = keptStores(s.Store, nix, log)
	buildID, err := buildid.Of(program)
	if err != nil {
		return err
	}
	folder, records, err := s.openHistory()
	if err != nil {
		return hintAtFolder(err)
	}
	defer records.Close()
	logs, err := s.openLogs(folder, records)
	if err != nil {
		return err
	}
	s.warnOfSettings(log)
	numbers := metrics.New(build, wsapi.Refusals, docker.Calls, len(s.Nodes) > 0)
	logs.Written = numbers.LogWritten
	engines, err := s.openFleet(ownProgram{program, buildID, build.Version}, filepath.Join(folder, "programs"), log)
	if err != nil {
		return err
	}
	options := s.builder(nix, buildID, numbers)
	options.Cluster = engines.cluster
	builder := orchestrator.New(engines.one, options, logs, records, log)
	defer builder.Close()
	numbers.Jobs(builder.Load, builder.Slots)
	numbers.Stores(builder.StoresSize)
	numbers.Nodes(builder.Nodes)
	page := web.New(records, logs, builder, web.Options{
		Commands:      s.AllowedCommands,
		ClientTimeout: s.ClientTimeout,
		Token:         token != "",
	}, log)
	defer page.Close()
	access := auth.Options{Token: token, AllowedOrigins: s.AllowedOrigins, IsOfJobs: engines.IsOfJobs}
	api := wsapi.NewServer(jobs{builder}, s.api(access, page, numbers), log)
	listener, err := listen(s, log)
	if err != nil {
		return err
	}
	if err := errors.Join(checkStatic(program), builder.Check(ctx)); err != nil {
		listener.Close()
		return err
	}

	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	defer inBackground(serving, builder.Maintain)()
	defer tick.Every(pruneInterval, func() {
		if err := errors.Join(logs.Prune(), records.Prune(logs.Has), s.pruneUnused(folder)); err != nil {
			log.Warn("cannot remove old logs and records", "err", err)
		}
	})()
	log.Info("listening", "addr", listener.Addr().String(), "image", s.JobImage, "instance", s.Instance)
	defer context.AfterFunc(ctx, func() {
		defer stopServing()
		notify(daemon.SdNotifyStopping, log)
		grace, cancel := context.WithTimeout(force, s.grace(engines.StopTimeout(), log))
		defer cancel()
		api.Drain()
		builder.Drain(grace)
	})()
	notify(daemon.SdNotifyReady, log)
	err = serveHTTP(serving, listener, api, page.Close, log)
	api.Close()
	return err
}

// jobs adapts a builder to the interface of wsapi.
type jobs struct{ *orchestrator.Builder }

func (j jobs) Start(ctx context.Context, request *schemas.Request, client string, release func()) wsapi.Job {
	return j.Builder.Start(ctx, request, client, release)
}

// builder returns the options for running jobs.
func (s *Settings) builder(nix orchestrator.NixSettings, buildID string, observer orchestrator.Observer) orchestrator.Options {
	return orchestrator.Options{
		MaxJobs:      s.MaxJobs,
		MaxQueued:    s.MaxQueued,
		Stores:       s.storeOptions(),
		JobUser:      s.JobUser,
		FetchTimeout: s.FetchTimeout,
		GitDepth:     s.GitDepth,
		Push:         orchestrator.Push{Uploads: s.PushUploads, PartSize: s.PushPartSize, Upstream: s.PushUpstream},
		Nix:          nix,
		Limits:       s.Limits,
		Deadlines:    s.Deadlines,
		PublicURL:    s.PublicURL,
		DrainQueue:   s.Drain,
		RetryLost:    s.RetryLost,
		BuildID:      buildID,
		Observer:     observer,
	}
}

// api returns the options for answering requests.
func (s *Settings) api(access auth.Options, page http.Handler, numbers *metrics.Metrics) wsapi.Options {
	return wsapi.Options{
		Page:            page,
		Auth:            access,
		Commands:        s.AllowedCommands,
		RequestTimeout:  s.RequestTimeout,
		MaxRequestBytes: s.MaxRequestBytes,
		ClientTimeout:   s.ClientTimeout,
		Metrics:         numbers.Handler(),
		Refused:         numbers.Refused,
	}
}

// maxStates is more than there are builders that share a folder.
const maxStates = 100

// openHistory opens the history in the first of the instance's folders that no other builder uses: the folder
// of the instance, or a folder in it named 2, 3, and so on.
func (s *Settings) openHistory() (folder string, records *history.History, err error) {
	for n := 1; ; n++ {
		folder = s.state(n)
		records, err = history.Open(historyIn(folder))
		if !errors.Is(err, history.ErrInUse) || n == maxStates {
			return folder, records, err
		}
	}
}

// state returns the instance's folder with a number, from 1 on.
func (s *Settings) state(n int) string {
	if n == 1 {
		return s.folder("")
	}
	return s.folder(strconv.Itoa(n))
}

func historyIn(folder string) string { return filepath.Join(folder, "history.db") }

// openLogs opens the jobs' logs in a folder, and removes the records of jobs whose logs are not kept any more.
func (s *Settings) openLogs(folder string, records *history.History) (*joblog.Store, error) {
	keep := s.KeepLogs
	keep.Bytes = s.LogsMaxBytes
	logs, err := joblog.Open(filepath.Join(folder, "logs"), keep, s.MaxLogBytes)
	if err != nil {
		return nil, hintAtFolder(err)
	}
	return logs, records.Prune(logs.Has)
}

// pruneUnused removes old logs and records from the instance's folders that no builder uses, such as that of a server which
// ran next to the one before it. own is the folder of this builder.
func (s *Settings) pruneUnused(own string) (failed error) {
	for n := 1; n <= maxStates; n++ {
		folder := s.state(n)
		if _, err := os.Stat(historyIn(folder)); err == nil && folder != own {
			failed = errors.Join(failed, s.pruneIn(folder))
		}
	}
	return failed
}

// pruneIn removes old logs and records from a folder, unless a builder uses it or a newer version has written it.
func (s *Settings) pruneIn(folder string) error {
	records, err := history.Open(historyIn(folder))
	if errors.Is(err, history.ErrInUse) || errors.Is(err, history.ErrNewer) {
		return nil
	}
	if err != nil {
		return err
	}
	defer records.Close()
	_, err = s.openLogs(folder, records)
	return err
}

const (
	// endTime is the longest time that cancelled jobs need to end: their containers get 3 s, and their
	// clients get their last message.
	endTime = 5 * time.Second
	// safetyTime is the time between the end of the last job and the kill of the server.
	safetyTime = 2 * time.Second
	// StopMargin is how much longer than the grace of its jobs the server needs to stop.
	StopMargin = endTime + safetyTime
)

// grace returns how long running jobs may continue. The server's container is killed after stopTimeout, or
// never if that is 0.
func (s *Settings) grace(stopTimeout time.Duration, log *slog.Logger) time.Duration {
	stopTimeout = cmp.Or(s.StopTimeout, stopTimeout)
	if stopTimeout == 0 {
		return s.ShutdownGrace
	}
	most := max(0, stopTimeout-StopMargin)
	if most < s.ShutdownGrace {
		log.Info("running jobs get less time than IGLU_SHUTDOWN_GRACE: the server would be killed earlier", "grace", most, "killed", stopTimeout)
	}
	return min(most, s.ShutdownGrace)
}

// hintAtFolder adds a hint to an error of the state folder.
func hintAtFolder(err error) error {
	if errors.Is(err, history.ErrNewer) {
		return fmt.Errorf("%w\nhint: start that version or a later one, or give this one another folder (IGLU_STATE_DIR)", err)
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%w\nhint: set IGLU_STATE_DIR to a folder that the builder may write to", err)
	}
	return err
}

// hintAtAddress adds a hint to an error of the address to listen on.
func hintAtAddress(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w\nhint: set another address with --listen or IGLU_LISTEN, or stop the program that uses this one", err)
	}
	return err
}

// keptStores returns which jobs share a Nix store, if a mode is set, with the operator's settings of Nix.
func keptStores(mode stores.Mode, nix orchestrator.NixSettings, log *slog.Logger) stores.Mode {
	if mode != stores.Repository || !nixconf.HasCADerivations(nix.Lines) { // with stores.Shared, jobs trust each other anyway
		return mode
	}
	log.Warn("no Nix store is kept for later jobs, as with IGLU_STORE=ephemeral: IGLU_NIX_CONF_FILE enables ca-derivations, " +
		"with which each job could forge what later jobs of its store take as the output of a derivation")
	return stores.Ephemeral
}

// warnOfSettings warns of settings that are dangerous, or have no effect because of others.
func (s *Settings) warnOfSettings(log *slog.Logger) {
	if s.JobNetwork == "host" {
		log.Warn("jobs are on the network of the engine's machine (IGLU_JOB_NETWORK): they reach all that listens on 127.0.0.1 there, " +
			"and if the builder is there, they are clients like any other")
	}
	if most := max(0, s.StopTimeout-StopMargin); s.StopTimeout > 0 && most < s.ShutdownGrace {
		log.Warn("running jobs get less time than IGLU_SHUTDOWN_GRACE when the server is stopped: it would be killed earlier (IGLU_STOP_TIMEOUT)", "grace", most)
	}
	if s.Drain && s.ShutdownGrace == 0 {
		log.Warn("IGLU_DRAIN has no effect: IGLU_SHUTDOWN_GRACE gives jobs no time")
	}
	if s.RetryLost && len(s.Nodes) == 0 {
		log.Warn("IGLU_RETRY_LOST has no effect: it is for several nodes (IGLU_NODES)")
	}
}

// inBackground runs work in a goroutine. stop ends it and waits for it.
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

// listen returns the listener of the server. It warns if others can reach it without a token.
func listen(s Settings, log *slog.Logger) (net.Listener, error) {
	plain, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return nil, hintAtAddress(err)
	}
	listener, err := withTLS(connlimit.Listen(plain, connlimit.MaxConns), s.TLSCert, s.TLSKey, log)
	if err != nil {
		plain.Close()
		return nil, err
	}
	if addr, ok := plain.Addr().(*net.TCPAddr); ok && !addr.IP.IsLoopback() && s.TokenFile == "" {
		log.Warn("no token is set (IGLU_TOKEN_FILE): anyone who can reach this address can run programs on the container engine; "+
			"through a published port a job can reach it, too, and looks like a client on this machine: publish the port on 127.0.0.1 only, or set a token",
			"addr", addr.String())
	}
	return listener, nil
}

// notify sends the state of the server to systemd, if systemd has started it.
func notify(state string, log *slog.Logger) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("cannot notify systemd", "err", err)
	}
}

// An httpLog writes the log of an http.Server, one line at a time, to the server's log.
type httpLog struct{ log *slog.Logger }

func (l httpLog) Write(line []byte) (int, error) {
	text := strings.TrimSuffix(string(line), "\n")
	level := slog.LevelWarn
	if strings.HasPrefix(text, "http: TLS handshake error") { // of a client who is refused, like others
		level = slog.LevelInfo
		if strings.HasSuffix(text, ": EOF") { // it only sees whether the port is open, as load balancers do
			level = slog.LevelDebug
		}
	}
	l.log.Log(context.Background(), level, text)
	return len(line), nil
}

// serveHTTP answers requests until ctx ends. Then it cancels running jobs, calls stopWatching, which ends the
// requests of watchers, and waits for open requests for at most shutdownTimeout.
func serveHTTP(ctx context.Context, listener net.Listener, api *wsapi.Server, stopWatching func(), log *slog.Logger) error {
	server := &http.Server{
		Handler:           api,
		ConnContext:       connlimit.WithConn,
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          stdlog.New(httpLog{log}, "", 0),
	}
	server.RegisterOnShutdown(stopWatching)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		log.Info("shutting down")
		api.Cancel()
		timeout, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if server.Shutdown(timeout) != nil {
			server.Close() // a request that does not end
		}
		<-served
		return nil
	}
}
