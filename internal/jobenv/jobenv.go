// Package jobenv is the interface between the builder and the program in a job's container:
// environment variables, exit codes and the lifeline. The orchestrator writes a Job with Environ,
// and internal/jobrun reads it with Parse. docs/job-environment.md documents the variables.
package jobenv

import (
	"slices"
	"strings"
	"time"
)

// The names of the environment. The last three are what the ecosystem calls them.
const (
	Repository   = "IGLU_REPOSITORY"
	NoClone      = "IGLU_NO_CLONE"
	Branch       = "IGLU_BRANCH"
	GitDepth     = "IGLU_GIT_DEPTH"
	FetchTimeout = "IGLU_FETCH_TIMEOUT"
	CPUs         = "IGLU_CPUS"
	System       = "IGLU_SYSTEM"
	NixConf      = "IGLU_NIX_CONF"
	AccessTokens = "IGLU_ACCESS_TOKENS"
	Netrc        = "IGLU_NETRC"
	FlakeConfig  = "IGLU_ACCEPT_FLAKE_CONFIG"
	StoreOfAll   = "IGLU_STORE_OF_ALL"
	Colors       = "IGLU_COLORS"
	GitUsername  = "IGLU_GIT_USERNAME"
	GitKey       = "IGLU_GIT_KEY"
	Command      = "IGLU_COMMAND"
	ExtraArgs    = "IGLU_EXTRA_ARGS"
	CacheTarget  = "IGLU_CACHE_TARGET"
	PushUploads  = "IGLU_PUSH_UPLOADS"
	PushPartSize = "IGLU_PUSH_PART_BYTES"
	UpstreamKeys = "IGLU_UPSTREAM_KEYS"
	Maintenance  = "IGLU_MAINTENANCE"
	NixVersion   = "IGLU_NIX_VERSION"
	JobUser      = "IGLU_JOB_USER"
	DaemonConfig = "IGLU_DAEMON_CONFIG"
	Store        = "IGLU_STORE_STATE"
	BuildID      = "IGLU_BUILD_ID"
	EventsToken  = "IGLU_EVENTS_TOKEN"
	CacheToken   = "CACHIX_AUTH_TOKEN"
	SigningKey   = "CACHIX_SIGNING_KEY"
	NixConfig    = "NIX_CONFIG"
)

// The values of JobUser: the user that runs a job's own programs. UserNix is an unprivileged user,
// for whom a nix-daemon run by root builds; UserRoot is root.
const (
	UserNix  = "nix"
	UserRoot = "root"
)

// Systems maps the GOARCH of a Linux machine to Nix's name of that system, for those on which Nix builds.
var Systems = map[string]string{
	"amd64":   "x86_64-linux",
	"386":     "i686-linux",
	"arm64":   "aarch64-linux",
	"arm":     "armv7l-linux",
	"riscv64": "riscv64-linux",
}

// Mount is the read-only folder of the container that has the builder's own program. Program and
// Askpass are the files in it: the program, and a link to it. Git runs the link to ask for credentials.
const (
	Mount   = "/iglu"
	Program = "iglu-builder"
	Askpass = "iglu-askpass"
)

// Exit codes of the container, in addition to those of its programs. The names in the comments are
// those of BSD's sysexits.h.
const (
	ExitUnpushed      = 75 // EX_TEMPFAIL: the build succeeded, but not its push
	ExitUnusableStore = 70 // EX_SOFTWARE: the store of earlier jobs cannot be used, and nothing of the job has run
	ExitLifelineLost  = 74 // EX_IOERR: the connection to the builder is lost
)

// BuildDir is the folder of the container in which Nix builds. It is on the engine's disk, while /tmp
// is in memory. It is Nix's default since 2.30.
const BuildDir = "/nix/var/nix/builds"

// StoreCache is the folder in which Nix caches what it has evaluated and fetched, if the store is
// kept after the job. It is on the store's volume.
const StoreCache = "/nix/var/iglu-cache"

// The values of Store, for a store that is kept after the job.
const (
	StoreFresh = "fresh" // it was created from the image for this job
	StoreUsed  = "used"  // earlier jobs have used it
)

// The values of Maintenance: what is done with a store between jobs. MaintenanceCollect is followed
// by a space and the number of bytes to free. The container prints the store's size in bytes as its
// last line, and its exit code is 0 if the store is clean.
const (
	MaintenanceCheck   = "check" // verifies the store, unless it is known to be clean
	MaintenanceCollect = "collect"
)

// NixLog is a socket of the container. Nix writes its log to it in a format for programs.
const NixLog = "/iglu-nix"

// A container's standard input is its lifeline. The builder writes a byte into it once in each
// Heartbeat. When it is closed, or no byte has arrived for the time of Silence, the builder or its
// engine has failed, and the job ends by itself.
const (
	Heartbeat = 5 * time.Second
	Silence   = 30 * time.Second
	// Outlives is the longest time that a container runs after it has lost its builder.
	Outlives = time.Minute
)

// Job has the parameters of a job, for its container.
type Job struct {
	Repository   string // empty only with NoClone
	NoClone      string // "true": the repository is not cloned
	Branch       string // a branch, or another ref that 'git fetch' accepts; empty: the repository's default branch
	GitDepth     string // how many commits of the history are fetched; empty: all
	FetchTimeout string // the time limit for fetching the source, in the format of time.ParseDuration
	CPUs         string // how many the job may use, rounded up; empty: not known
	System       string // the system to build for, in Nix's spelling; empty: the container's own
	NixConf      string // lines of nix.conf for all of the container's Nix, after those of the image
	AccessTokens string // secret: HOST=TOKEN, separated by spaces, as in Nix's setting access-tokens
	Netrc        string // secret: the text of a netrc file
	FlakeConfig  string // "true": the substituters and keys in the source's flake are used
	StoreOfAll   string // "true": the store is for all jobs, whatever caches and keys they trust
	Colors       string // "true": what Nix prints on standard error keeps its colours
	GitUsername  string
	GitKey       string // secret
	Command      string // split into words by internal/shellwords
	ExtraArgs    string // likewise, and appended
	CacheTarget  string // empty: nothing to push
	PushUploads  string // how many paths are uploaded at the same time
	PushPartSize string // size of the parts of an upload, in bytes
	UpstreamKeys string // public keys, separated by spaces: paths that one of them has signed are not pushed
	Maintenance  string // a task of maintenance that is run instead of a build; empty: none
	NixVersion   string // of the image's Nix, if an earlier job has found it; empty: not known
	JobUser      string // UserNix or UserRoot
	DaemonConfig string // lines of nix.conf for the nix-daemon; empty: there is none
	Store        string // StoreFresh or StoreUsed if the store is kept after the job; else empty
	BuildID      string // of the program that the builder expects in the container; see internal/buildid
	EventsToken  string // secret: the key of the records that the program sends; see internal/jobwire
	CacheToken   string // secret
	SigningKey   string // secret
	NixConfig    string // lines of nix.conf; Nix itself reads this variable
}

type field struct {
	name  string
	value *string
}

// fields pairs the name of each variable with its field.
func (j *Job) fields() []field {
	return []field{
		{Repository, &j.Repository},
		{NoClone, &j.NoClone},
		{Branch, &j.Branch},
		{GitDepth, &j.GitDepth},
		{FetchTimeout, &j.FetchTimeout},
		{CPUs, &j.CPUs},
		{System, &j.System},
		{NixConf, &j.NixConf},
		{AccessTokens, &j.AccessTokens},
		{Netrc, &j.Netrc},
		{FlakeConfig, &j.FlakeConfig},
		{StoreOfAll, &j.StoreOfAll},
		{Colors, &j.Colors},
		{GitUsername, &j.GitUsername},
		{GitKey, &j.GitKey},
		{Command, &j.Command},
		{ExtraArgs, &j.ExtraArgs},
		{CacheTarget, &j.CacheTarget},
		{PushUploads, &j.PushUploads},
		{PushPartSize, &j.PushPartSize},
		{UpstreamKeys, &j.UpstreamKeys},
		{Maintenance, &j.Maintenance},
		{NixVersion, &j.NixVersion},
		{JobUser, &j.JobUser},
		{DaemonConfig, &j.DaemonConfig},
		{Store, &j.Store},
		{BuildID, &j.BuildID},
		{EventsToken, &j.EventsToken},
		{CacheToken, &j.CacheToken},
		{SigningKey, &j.SigningKey},
		{NixConfig, &j.NixConfig},
	}
}

// Environ returns the job as NAME=value strings. A field that is not set becomes an empty variable,
// because a job image may have a variable of that name.
func (j Job) Environ() []string {
	var environ []string
	for _, f := range j.fields() {
		environ = append(environ, f.name+"="+*f.value)
	}
	return environ
}

// Parse splits a container's environment into the job and the rest. The rest is the environment of
// the job's child processes: of the job it has only NIX_CONFIG.
func Parse(environ []string) (job Job, rest []string) {
	fields := job.fields()
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
		if i >= 0 {
			*fields[i].value = value
		}
		if i < 0 || name == NixConfig {
			rest = append(rest, entry)
		}
	}
	return job, rest
}
