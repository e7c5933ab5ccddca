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

// Settings are the settings of the server. Each is a flag and an environment variable; Table lists them.
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
	StopTimeout     time.Duration // 0: that of the server's container
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
	EngineHost string // not a flag: DOCKER_HOST sets it, as for every Docker client
}

// Register adds a flag for each setting, with its default.
func (s *Settings) Register(flags *pflag.FlagSet) {
	add := func(target pflag.Value, name, initial, usage string) {
		if initial != "" {
			if err := target.Set(initial); err != nil {
				panic(fmt.Sprintf("default of --%s: %v", name, err))
			}
		}
		flags.Var(target, name, usage)
	}
	add(parsed(&s.Listen, matching("ADDRESS", `.*:[0-9a-z-]+`), parseAddress), "listen", "127.0.0.1:3000",
		"address to listen on; with port 0, any free port")
	add(parsed(&s.TokenFile, file, parseFile), "token-file", "",
		"file with the token that clients must send (default no token is needed)")
	add(parsed(&s.AllowedOrigins, list, parseOrigins), "allowed-origins", "",
		"origins of pages that may connect besides the builder's own, separated by commas; without a token, also the host names that clients may use for the builder")
	add(parsed(&s.TLSCert, file, parseFile), "tls-cert", "",
		"file with the certificate for TLS and its chain (default plain HTTP)")
	add(parsed(&s.TLSKey, file, parseFile), "tls-key", "",
		"file with the certificate's private key")
	add(parsed(&s.JobImage, anyText("IMAGE"), parseImage), "job-image", images.Default,
		"image that jobs run in")
	add(choice(&s.Pull, images.PullMissing, images.PullAlways, images.PullNever), "pull", "missing",
		"when to pull the job image: missing (if the engine does not have it), always (before each job) or never")
	add(choice(&s.Store, stores.Repository, stores.Shared, stores.Ephemeral), "store", "repository",
		"which jobs share a Nix store, one at a time: repository (those of one repository), shared (all) or ephemeral (none)")
	add(parsed(&s.StoreMaxBytes, size, parseBytes), "store-max-bytes", "50GB",
		"largest size of all stores together; the least recently used ones are removed first")
	add(parsed(&s.StoreWait, duration, parseDuration), "store-wait", "5m",
		"time that a job waits for a Nix store that another job is using; then it starts with the image's own store")
	add(whole(&s.MaxJobs, 1, maxJobs), "max-jobs", "1",
		"number of jobs that run at once; limits of a job in percent are divided by it")
	add(whole(&s.MaxQueued, 0, maxQueued), "max-queued", "0",
		"number of jobs that can wait while all slots are taken; further clients get the answer that the builder is busy")
	add(parsed(&s.JobNetwork, anyText("NAME"), parseAny), "job-network", "",
		"the engine's network for jobs (default a bridge that the builder creates)")
	add(parsed(&s.Limits.Memory, memory, parseMemory), "job-memory", "75%",
		"memory limit of a job: a size, or a percentage of the machine's memory, which is divided by --max-jobs")
	add(parsed(&s.Limits.CPUs, cpus, parseCPUs), "job-cpus", "100%",
		"CPU limit of a job: a number of CPUs, or a percentage of the machine's CPUs, which is divided by --max-jobs")
	add(parsed(&s.Limits.PIDs, number(leastPIDs, math.MaxInt32), parsePIDs), "job-pids", "4096",
		"limit of a job's processes and threads")
	add(choice(&s.JobUser, orchestrator.UserNix, orchestrator.UserRoot), "job-user", "nix",
		"user that a job's command runs as: nix (unprivileged, with a nix-daemon that builds) or root (can change the job's Nix store at will)")
	add(choice(&s.Sandbox, docker.SandboxAuto, docker.SandboxOn, docker.SandboxOff), "nix-sandbox", "auto",
		"when Nix uses its own sandbox: auto (if the engine supports it and it opens no way out of the container), on or off")
	add(parsed(&s.SandboxUnsafe, yesNo, parseYesNo), "nix-sandbox-unsafe", "no",
		"allow --nix-sandbox=on even if the sandbox opens a way out of the container")
	add(parsed(&s.NixConfFile, file, parseFile), "nix-conf-file", "",
		"file with lines of nix.conf for all jobs, including access-tokens (default none)")
	add(parsed(&s.FlakeConfig, yesNo, parseYesNo), "accept-flake-config", "no",
		"accept the substituters and keys that a flake sets in its nixConfig")
	add(parsed(&s.Deadlines.Build, duration, parseDuration), "build-timeout", "6h",
		"time after which a job is cancelled")
	add(durationOr(&s.Deadlines.Silence, "off"), "silence-timeout", "off",
		"time without output after which a job is cancelled, or off")
	add(parsed(&s.Instance, matching("NAME", instanceForm), parseInstance), "instance", "default",
		"name that labels everything made on the engine; builders with the same name share their Nix stores")
	add(parsed(&s.AllowedCommands, list, parseWords), "allowed-commands", "nix,nix-build",
		"programs that a job may run, separated by commas")
	add(parsed(&s.RequestTimeout, duration, parseDuration), "request-timeout", "30s",
		"time that a client has to send its job")
	add(parsed(&s.MaxRequestBytes, size, parseBytes), "max-request-bytes", "1MiB",
		"largest size of a job's message")
	add(parsed(&s.ClientTimeout, duration, parseDuration), "client-timeout", "5m",
		"time after which a client that reads nothing of its log counts as disconnected")
	add(durationOr(&s.ShutdownGrace, "0"), "shutdown-grace", "30s",
		"time that running jobs may continue after the server is asked to stop; shorter if the server would be killed earlier")
	add(durationOr(&s.StopTimeout, "auto"), "stop-timeout", "auto",
		"time between the request to stop and the kill; auto asks the engine for the stop time-out of the server's container")
	add(parsed(&s.Drain, yesNo, parseYesNo), "drain", "no",
		"when the server is asked to stop, also run the jobs that wait for a slot, within the time of --shutdown-grace")
	add(parsed(&s.PublicURL, matching("URL", `https?://.+`), parsePublicURL), "public-url", "",
		"URL of the server's page as people reach it; each job's log shows the page's address (default none)")
	add(parsed(&s.Nodes, list, parseNodes), "nodes", "",
		"addresses of the agents on several machines, or names that resolve to several, separated by commas; --max-jobs then applies to each node (default one engine)")
	add(parsed(&s.RetryLost, yesNo, parseYesNo), "retry-lost", "no",
		"if the node of a job is lost, run the job once more on another node")
	add(parsed(&s.AgentKeys, folder, parseFolder), "agent-keys", "",
		"folder with this side's keys, if the engine is reached through an agent (default none)")
	add(parsed(&s.StateDir, folder, parseFolder), "state-dir", defaultStateDir(),
		"folder for what is kept after a job: logs and records, in a folder for each instance")
	add(parsed(&s.KeepLogs, matching("COUNT|DAYS", `[0-9]+d?|[0-9]+,[0-9]+d`), parseKeep), "keep-logs", "1000,30d",
		"number of logs that are kept, such as 20, or days that they are kept, such as 7d, or both: 20,7d")
	add(parsed(&s.LogsMaxBytes, size, parseBytes), "logs-max-bytes", "10GB",
		"largest size of all logs together; when a job has ended, the oldest are removed, but never the latest")
	add(parsed(&s.MaxLogBytes, size, parseLogBytes), "max-log-bytes", "1GiB",
		"largest size of a job's log; a larger log is cut, its end is kept, and the job continues")
	add(parsed(&s.FetchTimeout, duration, parseDuration), "fetch-timeout", "30m",
		"time limit for fetching the whole source")
	add(parsed(&s.GitDepth, number(1, math.MaxInt32).or("all"), parseGitDepth), "git-depth", "all",
		"number of commits of a repository's history that a job fetches, or all; with fewer, results can differ (self.revCount)")
	add(whole(&s.PushUploads, 1, maxUploads), "push-uploads", "8",
		"number of paths that a job pushes to its cache at once")
	add(parsed(&s.PushPartSize, size, parsePartSize), "push-part-bytes", "8MiB",
		"size of the parts that paths are uploaded in; a job needs (uploads + 4) × size of memory for them")
	add(parsed(&s.PushUpstream, yesNo, parseYesNo), "push-upstream", "no",
		"also push what cache.nixos.org, or a key that the job trusts, has signed")
	add(parsed(&s.LogFormat, Kind{Type: Word}.or("text", "json"), parseLogFormat), "log-format", "text",
		"format of the log")
	add(parsed(&s.LogLevel, Kind{Type: Word}.or("debug", "info", "warn", "error"), parseLevel), "log-level", "info",
		"lowest level that is logged")
}

// defaultStateDir returns the folder for the server's state: a folder of the system for root, and one in the
// home folder for other users.
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

// folder returns a folder of the instance in StateDir.
func (s *Settings) folder(name string) string { return filepath.Join(s.StateDir, s.Instance, name) }

// storeOptions returns how Nix stores are kept.
func (s *Settings) storeOptions() stores.Options {
	return stores.Options{Instance: s.Instance, Mode: s.Store, MaxBytes: s.StoreMaxBytes, Folder: s.folder("stores"), Wait: s.StoreWait}
}

const envPrefix = "IGLU_"

// EnvName returns the environment variable for a flag: IGLU_MAX_JOBS for max-jobs.
func EnvName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// stackVariables are the variables of the Iglu stack, by flag. They are used if neither the flag nor the
// builder's own variable is set.
var stackVariables = map[string]struct {
	name string
	read func(text string) (value string, err error)
}{
	"log-level":  {"LOG_LEVEL", parseAny},
	"log-format": {"JSON_LOGGING", parseJSONLogging},
}

// ApplyEnviron sets the flags that the command line has not set from the environment. An empty variable
// counts as not set. The error has all variables with invalid values.
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

// Logger returns a logger with the configured format and level. It masks secrets in URLs.
func (s *Settings) Logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: s.LogLevel}
	var handler slog.Handler = slog.NewTextHandler(w, options)
	if s.LogFormat == "json" {
		handler = slog.NewJSONHandler(w, options)
	}
	return slog.New(redact.New().Handler(handler)) // no job's secrets are known here
}
