package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"iglu.sh/builder/images"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/orchestrator"
)

// settings are what can be set of the server. Each is a flag and an environment
// variable; docs/configuration.md is the table of them.
type settings struct {
	listen          string
	tokenFile       string
	allowedOrigins  []string
	tlsCert, tlsKey string
	jobImage        string
	jobNetwork      string
	limits          orchestrator.Limits
	deadlines       orchestrator.Deadlines
	sandbox         orchestrator.Sandbox
	sandboxUnsafe   bool
	instance        string
	allowedCommands []string
	requestTimeout  time.Duration
	maxRequestBytes int64
	clientTimeout   time.Duration
	shutdownGrace   time.Duration
	stateDir        string
	keepLogs        joblog.Keep
	maxLogBytes     int64
	pushUploads     int
	pushPartSize    int
	pushUpstream    bool
	logFormat       string
	logLevel        slog.Level
}

// register adds a flag for each setting, with its default.
func (s *settings) register(flags *pflag.FlagSet) {
	add := func(target pflag.Value, name, initial, usage string) {
		if err := target.Set(initial); err != nil {
			panic(fmt.Sprintf("default of --%s: %v", name, err))
		}
		flags.Var(target, name, usage)
	}
	add(parsed(&s.listen, "host:port", parseAddress), "listen", "127.0.0.1:3000",
		"`address` to listen on; port 0 takes a free one")
	add(parsed(&s.tokenFile, "name", parseAny), "token-file", "",
		"`file` with the token that clients must show (default none is asked for)")
	add(parsed(&s.allowedOrigins, "origins", parseOrigins), "allowed-origins", "",
		"origins of pages that may connect beside the builder's own, a `list` separated by commas")
	add(parsed(&s.tlsCert, "name", parseAny), "tls-cert", "",
		"`file` with the certificate for TLS and its chain (default plain HTTP)")
	add(parsed(&s.tlsKey, "name", parseAny), "tls-key", "",
		"`file` with the certificate's key")
	add(parsed(&s.jobImage, "image", parseImage), "job-image", images.Default,
		"`image` that jobs run in")
	add(parsed(&s.jobNetwork, "name", parseAny), "job-network", "",
		"the engine's `network` for jobs (default a bridge of the builder's own)")
	add(parsed(&s.limits.Memory, "bytes", parseMemory), "job-memory", "75%",
		"most `memory` of a job, as a size or as a share of the engine's machine")
	add(parsed(&s.limits.CPUs, "number", parseCPUs), "job-cpus", "100%",
		"most `CPUs` of a job, as a number or as a share of the engine's machine")
	add(parsed(&s.limits.PIDs, "number", parsePIDs), "job-pids", "4096",
		"most `processes` and threads of a job at once")
	add(parsed(&s.sandbox, "when", parseSandbox), "nix-sandbox", "auto",
		"`when` Nix uses its own sandbox: auto (where it opens no way out of the container), on or off")
	add(parsed(&s.sandboxUnsafe, "yes or no", parseYesNo), "nix-sandbox-unsafe", "no",
		"`yes` lets the sandbox be on even where it opens a way out of the container")
	add(parsed(&s.deadlines.Build, "duration", parseDuration), "build-timeout", "6h",
		"`time` after which a job is cancelled")
	add(parsed(&s.deadlines.Silence, "duration", parseDurationOrOff), "silence-timeout", "off",
		"`time` without output after which a job is cancelled, or off")
	add(parsed(&s.instance, "name", parseInstance), "instance", "default",
		"`name` that labels everything made on the engine; different for each builder on it")
	add(parsed(&s.allowedCommands, "words", parseWords), "allowed-commands", "nix,nix-build",
		"programs that a job may run, a `list` separated by commas")
	add(parsed(&s.requestTimeout, "duration", parseDuration), "request-timeout", "30s",
		"`time` that a client has to send its job")
	add(parsed(&s.maxRequestBytes, "bytes", parseBytes), "max-request-bytes", "1MiB",
		"largest `size` of a job's message")
	add(parsed(&s.clientTimeout, "duration", parseDuration), "client-timeout", "5m",
		"`time` after which a client that accepts nothing of its log counts as gone")
	add(parsed(&s.shutdownGrace, "duration", parseGrace), "shutdown-grace", "30s",
		"`time` that a running job may go on for when the server is asked to stop")
	add(parsed(&s.stateDir, "folder", parseAny), "state-dir", defaultStateDir(),
		"`folder` for what outlives a job: the logs, in a folder for each instance")
	add(parsed(&s.keepLogs, "jobs,days", parseKeep), "keep-logs", "20",
		"`how many` logs of jobs are kept, or for how many days, or both, as in 20,7d")
	add(parsed(&s.maxLogBytes, "bytes", parseLogBytes), "max-log-bytes", "1GiB",
		"largest `size` of a job's log; beyond it the job goes on, and only the log's end is kept")
	add(parsed(&s.pushUploads, "number", parseUploads), "push-uploads", "8",
		"`how many` paths a job pushes to its cache at once")
	add(parsed(&s.pushPartSize, "bytes", parsePartSize), "push-part-bytes", "8MiB",
		"`size` of the parts that paths go up in; a job takes (uploads + 4) × size of memory for them")
	add(parsed(&s.pushUpstream, "yes|no", parseYesNo), "push-upstream", "no",
		"`yes` has jobs push also what cache.nixos.org, or a key that the job trusts, has signed")
	add(parsed(&s.logFormat, "format", parseLogFormat), "log-format", "text",
		"`format` of the server's log: text or json")
	add(parsed(&s.logLevel, "level", parseLevel), "log-level", "info",
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

const envPrefix = "IGLU_"

// envName is the variable of the same name as a flag.
func envName(flag string) string {
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

// applyEnviron sets the flags that the command line has not set from the
// environment. An empty variable counts as not set.
func applyEnviron(flags *pflag.FlagSet) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		name, read := envName(f.Name), parseAny
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

func (s *settings) logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: s.logLevel}
	if s.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// value is a setting that parse makes from text.
type value[T any] struct {
	target *T
	text   string
	kind   string
	parse  func(string) (T, error)
}

func parsed[T any](target *T, kind string, parse func(string) (T, error)) *value[T] {
	return &value[T]{target: target, kind: kind, parse: parse}
}

func (v *value[T]) Set(text string) error {
	parsed, err := v.parse(text)
	if err != nil {
		return fmt.Errorf("%q %w", text, err)
	}
	*v.target, v.text = parsed, text
	return nil
}

func (v *value[T]) String() string { return v.text }
func (v *value[T]) Type() string   { return v.kind }

func parseAny(text string) (string, error) { return text, nil }

func parseAddress(text string) (string, error) {
	_, port, err := net.SplitHostPort(text)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return "", errors.New("is not an address such as 127.0.0.1:3000 or :3000")
	}
	return text, nil
}

func parseImage(text string) (string, error) {
	if _, err := reference.ParseNormalizedNamed(text); err != nil {
		return "", fmt.Errorf("is not the name of an image: %w", err)
	}
	return text, nil
}

var instanceName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

func parseInstance(text string) (string, error) {
	if !instanceName.MatchString(text) {
		return "", errors.New("is not a name of letters, digits, dots, dashes and underscores")
	}
	return text, nil
}

func parseSandbox(text string) (orchestrator.Sandbox, error) {
	s := orchestrator.Sandbox(text)
	if s != orchestrator.SandboxAuto && s != orchestrator.SandboxOn && s != orchestrator.SandboxOff {
		return "", errors.New("is none of auto, on, off")
	}
	return s, nil
}

func parseYesNo(text string) (bool, error) {
	if text != "yes" && text != "no" {
		return false, errors.New("is neither yes nor no")
	}
	return text == "yes", nil
}

func parseWords(text string) ([]string, error) {
	words := strings.Split(text, ",")
	for i := range words {
		words[i] = strings.TrimSpace(words[i])
	}
	if slices.Contains(words, "") {
		return nil, errors.New("is not a list of programs such as nix,nix-build")
	}
	return words, nil
}

var originForm = regexp.MustCompile(`^https?://[^/?#@,\s]+$`)

func parseOrigins(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	origins, err := parseWords(text)
	if err != nil || slices.ContainsFunc(origins, func(origin string) bool { return !originForm.MatchString(origin) }) {
		return nil, errors.New("is not a list of origins such as https://example.com,http://localhost:8080")
	}
	return origins, nil
}

func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, errors.New("is not a time such as 30s or 5m")
	}
	return d, nil
}

func parseGrace(text string) (time.Duration, error) {
	if text == "0" {
		return 0, nil
	}
	return parseDuration(text)
}

func parseDurationOrOff(text string) (time.Duration, error) {
	if text == "off" {
		return 0, nil
	}
	d, err := parseDuration(text)
	if err != nil {
		err = fmt.Errorf("%w, nor off", err)
	}
	return d, err
}

func parseBytes(text string) (int64, error) {
	n, err := units.RAMInBytes(text)
	if err != nil || n <= 0 {
		return 0, errors.New("is not a size such as 1048576 or 1MiB")
	}
	return n, nil
}

// leastMemory is what a job's container needs before it does anything.
const leastMemory = 64 << 20

func parseMemory(text string) (orchestrator.Amount, error) {
	return parseAmount(text, "is not a size of at least 64MiB such as 8GiB, nor a share such as 75%", func(text string) (float64, error) {
		n, err := parseBytes(text)
		if n < leastMemory {
			err = errors.New("too little")
		}
		return float64(n), err
	})
}

func parseCPUs(text string) (orchestrator.Amount, error) {
	return parseAmount(text, "is not a number of CPUs such as 1.5, nor a share such as 75%", func(text string) (float64, error) {
		n, err := strconv.ParseFloat(text, 64)
		if !(n >= leastCPUs && n <= mostCPUs) {
			err = errors.New("too little or too much")
		}
		return n, err
	})
}

// leastCPUs is the least that engines take, mostCPUs what no machine has.
const leastCPUs, mostCPUs = 0.01, 1e6

var shareForm = regexp.MustCompile(`^(100|[1-9]\d?)%$`)

// parseAmount reads an amount that is a share, or what parseFixed makes of it. Whatever is
// wrong, the sentence says what would be right.
func parseAmount(text, sentence string, parseFixed func(string) (float64, error)) (a orchestrator.Amount, err error) {
	if m := shareForm.FindStringSubmatch(text); m != nil {
		a.Share, err = strconv.ParseFloat(m[1], 64)
		a.Share /= 100
	} else {
		a.Fixed, err = parseFixed(text)
	}
	if err != nil {
		err = errors.New(sentence)
	}
	return a, err
}

// leastPIDs is what it takes to fetch a source and run Nix.
const leastPIDs = 64

func parsePIDs(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < leastPIDs {
		return 0, fmt.Errorf("is not a number of at least %d", leastPIDs)
	}
	return n, nil
}

// leastLogBytes leaves room for the end of a log that is cut.
const leastLogBytes = 256 << 10

func parseLogBytes(text string) (int64, error) {
	n, err := parseBytes(text)
	if err == nil && n < leastLogBytes {
		err = errors.New("is less than 256KiB")
	}
	return n, err
}

var keepForm = regexp.MustCompile(`^(?:(\d{1,9})|(\d{1,5})d|(\d{1,9}),(\d{1,5})d)$`)

func parseKeep(text string) (keep joblog.Keep, err error) {
	m := keepForm.FindStringSubmatch(text)
	if m == nil {
		return keep, errors.New("is not a number of jobs such as 20, or of days such as 7d, or both: 20,7d")
	}
	keep.Jobs = math.MaxInt
	if jobs := m[1] + m[3]; jobs != "" {
		keep.Jobs, _ = strconv.Atoi(jobs)
	}
	if days, _ := strconv.Atoi(m[2] + m[4]); days > 0 {
		keep.Age = time.Duration(days) * 24 * time.Hour
	}
	return keep, nil
}

const maxUploads = 64

func parseUploads(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxUploads {
		return 0, fmt.Errorf("is not a number from 1 to %d", maxUploads)
	}
	return n, nil
}

// Sizes of parts in bytes: S3 takes no smaller ones, and every upload keeps one in memory.
const (
	leastPartSize = 5 << 20
	maxPartSize   = 1 << 30
)

func parsePartSize(text string) (int, error) {
	n, err := parseBytes(text)
	if err == nil && (n < leastPartSize || n > maxPartSize) {
		err = errors.New("is not a size from 5MiB to 1GiB")
	}
	return int(n), err
}

func parseLogFormat(text string) (string, error) {
	if text != "text" && text != "json" {
		return "", errors.New("is neither text nor json")
	}
	return text, nil
}

// parseJSONLogging returns the log's format that JSON_LOGGING stands for.
func parseJSONLogging(text string) (string, error) {
	switch text {
	case "true":
		return "json", nil
	case "false":
		return "text", nil
	}
	return "", fmt.Errorf("%q is neither true nor false", text)
}

func parseLevel(text string) (level slog.Level, err error) {
	if level.UnmarshalText([]byte(text)) != nil {
		return 0, errors.New("is none of debug, info, warn, error")
	}
	return level, nil
}
