package server

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"iglu.sh/builder/images"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/orchestrator/docker"
	"iglu.sh/builder/orchestrator/stores"
)

// Settings are what can be set of the server. Each is a flag and an environment variable; Table lists
// them.
type Settings struct {
	Listen          string
	TokenFile       string
	AllowedOrigins  []string
	TLSCert, TLSKey string
	JobImage        string
	Pull            images.Policy
	JobNetwork      string
	MaxJobs         int
	MaxQueued       int
	Store           stores.Mode
	StoreWait       time.Duration
	StoreMaxBytes   int64
	Limits          orchestrator.Limits
	Deadlines       orchestrator.Deadlines
	JobUser         orchestrator.JobUser
	Sandbox         docker.Sandbox
	SandboxUnsafe   bool
	NixConfFile     string
	FlakeConfig     bool
	Instance        string
	AllowedCommands []string
	RequestTimeout  time.Duration
	MaxRequestBytes int64
	ClientTimeout   time.Duration
	ShutdownGrace   time.Duration
	StopTimeout     time.Duration // 0: as the engine says
	Drain           bool
	PublicURL       string
	StateDir        string
	KeepLogs        joblog.Keep
	LogsMaxBytes    int64
	MaxLogBytes     int64
	FetchTimeout    time.Duration
	GitDepth        int
	PushUploads     int
	PushPartSize    int
	PushUpstream    bool
	LogFormat       string
	LogLevel        slog.Level

	Nodes      []string // addresses of agents; none: there is one engine
	RetryLost  bool
	AgentKeys  string
	EngineHost string // not to be set by flag: DOCKER_HOST is what every Docker client has
}

// Register adds a flag for each setting, with its default.
func (s *Settings) Register(flags *pflag.FlagSet) {
	add := func(target pflag.Value, name, initial, usage string) {
		if err := target.Set(initial); err != nil {
			panic(fmt.Sprintf("default of --%s: %v", name, err))
		}
		flags.Var(target, name, usage)
	}
	add(parsed(&s.Listen, matching(`.*:[0-9a-z-]+`), parseAddress), "listen", "127.0.0.1:3000",
		"`address` to listen on; port 0 takes a free one")
	add(parsed(&s.TokenFile, file, parseAny), "token-file", "",
		"`file` with the token that clients must show (default none is asked for)")
	add(parsed(&s.AllowedOrigins, list, parseOrigins), "allowed-origins", "",
		"origins of pages that may connect beside the builder's own, a `list` separated by commas; without a token, also names by which the builder may be called")
	add(parsed(&s.TLSCert, file, parseAny), "tls-cert", "",
		"`file` with the certificate for TLS and its chain (default plain HTTP)")
	add(parsed(&s.TLSKey, file, parseAny), "tls-key", "",
		"`file` with the certificate's key")
	add(parsed(&s.JobImage, anyText, parseImage), "job-image", images.Default,
		"`image` that jobs run in")
	add(choice(&s.Pull, images.PullMissing, images.PullAlways, images.PullNever), "pull", "missing",
		"`when` the job image is pulled: missing (if the engine does not have it), always or never")
	add(choice(&s.Store, stores.Repository, stores.Shared, stores.Ephemeral), "store", "repository",
		"`who` shares a Nix store, one job after the other: repository (the jobs of one), shared (all jobs) or ephemeral (nobody)")
	add(parsed(&s.StoreMaxBytes, size, parseBytes), "store-max-bytes", "50GB",
		"largest `size` of all stores together; the ones used least recently go first")
	add(parsed(&s.StoreWait, duration, parseDuration), "store-wait", "5m",
		"`time` that a job waits for a Nix store that another job has; then it has one of its own")
	add(parsed(&s.MaxJobs, number(1, maxJobs), parseMaxJobs), "max-jobs", "1",
		"`how many` jobs run at once; shares of the machine are divided by it")
	add(parsed(&s.MaxQueued, number(0, maxQueued), parseMaxQueued), "max-queued", "0",
		"`how many` jobs wait for their turn while all slots are taken; others are told that the builder is busy")
	add(parsed(&s.JobNetwork, anyText, parseAny), "job-network", "",
		"the engine's `network` for jobs (default a bridge of the builder's own)")
	add(parsed(&s.Limits.Memory, memory, parseMemory), "job-memory", "75%",
		"most `memory` of a job, as a size or as a share of the engine's machine, divided by --max-jobs")
	add(parsed(&s.Limits.CPUs, cpus, parseCPUs), "job-cpus", "100%",
		"most `CPUs` of a job, as a number or as a share of the engine's machine, divided by --max-jobs")
	add(parsed(&s.Limits.PIDs, number(leastPIDs, math.MaxInt32), parsePIDs), "job-pids", "4096",
		"most `processes` and threads of a job at once")
	add(choice(&s.JobUser, orchestrator.UserNix, orchestrator.UserRoot), "job-user", "nix",
		"`who` a job's command runs as: nix (an unprivileged user, for whom a nix-daemon builds) or root (who can change the job's Nix store at will)")
	add(choice(&s.Sandbox, docker.SandboxAuto, docker.SandboxOn, docker.SandboxOff), "nix-sandbox", "auto",
		"`when` Nix uses its own sandbox: auto (where the engine can and that opens no way out of the container), on or off")
	add(parsed(&s.SandboxUnsafe, yesNo, parseYesNo), "nix-sandbox-unsafe", "no",
		"`yes` lets the sandbox be on even where it opens a way out of the container")
	add(parsed(&s.NixConfFile, file, parseAny), "nix-conf-file", "",
		"`file` with lines of nix.conf for all jobs, access-tokens among them (default none)")
	add(parsed(&s.FlakeConfig, yesNo, parseYesNo), "accept-flake-config", "no",
		"`yes` lets the substituters and keys count that a flake itself names (nixConfig)")
	add(parsed(&s.Deadlines.Build, duration, parseDuration), "build-timeout", "6h",
		"`time` after which a job is cancelled")
	add(parsed(&s.Deadlines.Silence, duration.or("off"), parseDurationOrOff), "silence-timeout", "off",
		"`time` without output after which a job is cancelled, or off")
	add(parsed(&s.Instance, matching(instanceForm), parseInstance), "instance", "default",
		"`name` that labels everything made on the engine; builders of one name share their Nix stores")
	add(parsed(&s.AllowedCommands, list, parseWords), "allowed-commands", "nix,nix-build",
		"programs that a job may run, a `list` separated by commas")
	add(parsed(&s.RequestTimeout, duration, parseDuration), "request-timeout", "30s",
		"`time` that a client has to send its job")
	add(parsed(&s.MaxRequestBytes, size, parseBytes), "max-request-bytes", "1MiB",
		"largest `size` of a job's message")
	add(parsed(&s.ClientTimeout, duration, parseDuration), "client-timeout", "5m",
		"`time` after which a client that accepts nothing of its log counts as gone")
	add(parsed(&s.ShutdownGrace, duration.or("0"), parseGrace), "shutdown-grace", "30s",
		"`time` that running jobs may go on for when the server is asked to stop; less where it would be killed before")
	add(parsed(&s.StopTimeout, duration.or("auto"), parseAutoDuration), "stop-timeout", "auto",
		"`time` after which the server is killed that was asked to stop; auto asks the engine for that of the server's container")
	add(parsed(&s.Drain, yesNo, parseYesNo), "drain", "no",
		"`yes` lets also the jobs that wait for their turn run, when the server is asked to stop, within the time of --shutdown-grace")
	add(parsed(&s.PublicURL, matching(`https?://.+`), parsePublicURL), "public-url", "",
		"`URL` of the server's page as people reach it; it stands in the logs of jobs (default none)")
	add(parsed(&s.Nodes, list, parseNodes), "nodes", "",
		"`list` of the agents' addresses on several machines, or of names that stand for several, separated by commas; --max-jobs is then for each (default one engine)")
	add(parsed(&s.RetryLost, yesNo, parseYesNo), "retry-lost", "no",
		"`yes` runs a job once more, on another of the nodes, when the one is lost on which it runs")
	add(parsed(&s.AgentKeys, folder, parseAny), "agent-keys", "",
		"`folder` with this side's keys, where the engine is reached through an agent (default it is not)")
	add(parsed(&s.StateDir, folder, parseAny), "state-dir", defaultStateDir(),
		"`folder` for what outlives a job: the logs, in a folder for each instance")
	add(parsed(&s.KeepLogs, matching(`[0-9]+d?|[0-9]+,[0-9]+d`), parseKeep), "keep-logs", "1000,30d",
		"`how many` logs of jobs are kept, or for how many days, or both, as in 20,7d")
	add(parsed(&s.LogsMaxBytes, size, parseBytes), "logs-max-bytes", "10GB",
		"largest `size` of all logs together; the oldest go first when a job has ended, the latest stays")
	add(parsed(&s.MaxLogBytes, size, parseLogBytes), "max-log-bytes", "1GiB",
		"largest `size` of a job's log; beyond it the job goes on, and only the log's end is kept")
	add(parsed(&s.FetchTimeout, duration, parseDuration), "fetch-timeout", "30m",
		"`time` that all of the fetching of a source may take")
	add(parsed(&s.GitDepth, number(1, math.MaxInt32).or("all"), parseGitDepth), "git-depth", "all",
		"`how many` commits of a repository's history a job fetches, or all; with fewer, what is built can differ (self.revCount)")
	add(parsed(&s.PushUploads, number(1, maxUploads), parseUploads), "push-uploads", "8",
		"`how many` paths a job pushes to its cache at once")
	add(parsed(&s.PushPartSize, size, parsePartSize), "push-part-bytes", "8MiB",
		"`size` of the parts that paths go up in; a job takes (uploads + 4) × size of memory for them")
	add(parsed(&s.PushUpstream, yesNo, parseYesNo), "push-upstream", "no",
		"`yes` has jobs push also what cache.nixos.org, or a key that the job trusts, has signed")
	add(parsed(&s.LogFormat, Kind{Type: Word}.or("text", "json"), parseLogFormat), "log-format", "text",
		"`format` of the server's log: text or json")
	add(parsed(&s.LogLevel, Kind{Type: Word}.or("debug", "info", "warn", "error"), parseLevel), "log-level", "info",
		"least `level` that is logged: debug, info, warn or error")
}

// defaultStateDir is where programs keep their state: on the machine for root, below
// their home for others.
func defaultStateDir() string {
	if os.Getuid() == 0 {
		return "/var/lib/iglu-builder"
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "iglu-builder")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "iglu-builder")
	}
	return filepath.Join(home, ".local/state/iglu-builder")
}

// folder is where an instance keeps what outlives a job.
func (s *Settings) folder(name string) string { return filepath.Join(s.StateDir, s.Instance, name) }

// Stores returns how stores are kept.
func (s *Settings) Stores() stores.Options {
	return stores.Options{Instance: s.Instance, Mode: s.Store, MaxBytes: s.StoreMaxBytes, Folder: s.folder("stores"), Wait: s.StoreWait}
}

const envPrefix = "IGLU_"

// EnvName is the variable of the same name as a flag.
func EnvName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// stackVariables are the variables of the Iglu stack, by the flags that they count for where
// neither the flag nor the builder's own variable is set.
var stackVariables = map[string]struct {
	name string
	read func(text string) (value string, err error)
}{
	"log-level":  {"LOG_LEVEL", parseAny},
	"log-format": {"JSON_LOGGING", parseJSONLogging},
}

// ApplyEnviron sets the flags that the command line has not set from the
// environment. An empty variable counts as not set.
func ApplyEnviron(flags *pflag.FlagSet) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		name, read := EnvName(f.Name), parseAny
		if v, ok := stackVariables[f.Name]; ok && os.Getenv(name) == "" {
			name, read = v.name, v.read
		}
		text := os.Getenv(name)
		if f.Changed || text == "" {
			return
		}
		value, err := read(text)
		if err == nil {
			err = f.Value.Set(value)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	})
	return errors.Join(errs...)
}

func (s *Settings) Logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: s.LogLevel}
	var handler slog.Handler = slog.NewTextHandler(w, options)
	if s.LogFormat == "json" {
		handler = slog.NewJSONHandler(w, options)
	}
	return slog.New(redact.New().Handler(handler)) // of no job's secrets, but of those in URLs
}
