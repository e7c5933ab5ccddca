// Package jobenv is the interface between the builder and the program inside a
// job's container: the container's environment. The orchestrator writes a Job with
// Environ, internal/jobrun reads it back with Parse, and docs/job-environment.md is
// the same table for people.
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

// Who a job's own programs run as: the values of JobUser. UserNix is an unprivileged user, for
// whom a nix-daemon that is root builds; UserRoot is root.
const (
	UserNix  = "nix"
	UserRoot = "root"
)

// Systems are the Linux machines on which Nix builds, by Go's names of them, as Nix names them.
var Systems = map[string]string{
	"amd64":   "x86_64-linux",
	"386":     "i686-linux",
	"arm64":   "aarch64-linux",
	"arm":     "armv7l-linux",
	"riscv64": "riscv64-linux",
}

// Mount is the folder of the container that holds the builder's own program,
// read-only, and Program and Askpass are what lies in it: the program, and a link
// to it under the name by which it answers git's questions for credentials.
const (
	Mount   = "/iglu"
	Program = "iglu-builder"
	Askpass = "iglu-askpass"
)

// Exit codes of the container beside those of its programs, as BSD's sysexits.h names them.
const (
	ExitUnpushed      = 75 // EX_TEMPFAIL: the build succeeded, but not its push
	ExitUnusableStore = 70 // EX_SOFTWARE: the store of earlier jobs is unfit, and nothing of the job has run
	ExitLifelineLost  = 74 // EX_IOERR: the builder, or the connection to it, is gone
)

// BuildDir is the folder of the container in which Nix builds: on the engine's disk, not in
// /tmp, which is memory. It is where Nix builds by itself since 2.30.
const BuildDir = "/nix/var/nix/builds"

// StoreCache is the folder of the container in which Nix caches what it has evaluated and
// fetched, where the store outlives the job: it lies on the same volume.
const StoreCache = "/nix/var/iglu-cache"

// What is known of a store that outlives its job: the values of Store.
const (
	StoreFresh = "fresh" // it has been filled from the image for this job
	StoreUsed  = "used"  // earlier jobs have had it
)

// What can be done with a store between jobs: the values of Maintenance. Collect is followed by
// a space and the bytes that are to be freed. The container prints the store's size in
// bytes as its last line, and its exit code is 0 if the store is sound.
const (
	MaintenanceCheck   = "check" // that it is sound, if that is not known
	MaintenanceCollect = "collect"
)

// NixLog is a socket of the container to which Nix tells what it does, for programs.
const NixLog = "/iglu-nix"

// A container's standard input is its lifeline. The builder writes a byte into it every
// Heartbeat. When it ends, or nothing has come for Silence, the builder or its engine is gone,
// and the job ends by itself.
const (
	Heartbeat = 5 * time.Second
	Silence   = 30 * time.Second
	// Outlives is how long a container runs at most that hears nothing of its builder any more.
	Outlives = time.Minute
)

// Job is what a container is told of its job.
type Job struct {
	Repository   string // empty only with NoClone
	NoClone      string // "true": the repository is not cloned
	Branch       string // a branch, or what else 'git fetch' takes; empty: the repository's default branch
	GitDepth     string // how many commits of the history are fetched; empty: all
	FetchTimeout string // bounds all that git does for the source; as time.ParseDuration takes it
	CPUs         string // how many the job has, rounded up; empty: not known
	System       string // that the job is for, as Nix names it; empty: the container's own
	NixConf      string // lines of nix.conf for all of the container's Nix, after those of the image
	AccessTokens string // secret: HOST=TOKEN, separated by spaces, as Nix's setting access-tokens has them
	Netrc        string // secret: the text of a netrc file
	FlakeConfig  string // "true": what the source's flake says of substituters and keys counts
	StoreOfAll   string // "true": the store is for all jobs, whatever they trust
	Colors       string // "true": what Nix prints on standard error keeps its colours
	GitUsername  string
	GitKey       string // secret
	Command      string // split into words by internal/shellwords
	ExtraArgs    string // likewise, and appended
	CacheTarget  string // empty: nothing to push
	PushUploads  string // how many paths go up at once
	PushPartSize string // of the parts that they go up in, in bytes
	UpstreamKeys string // what one of these has signed is not pushed; separated by spaces
	Maintenance  string // what is to be done with the store, in place of a build; empty: nothing
	NixVersion   string // of the image's, if an earlier job has found that out; empty: not known
	JobUser      string // UserNix or UserRoot
	DaemonConfig string // lines of nix.conf for the nix-daemon of UserNix
	Store        string // StoreFresh or StoreUsed where the store outlives the job; else empty
	BuildID      string // of the program that the builder expects in the container; see internal/buildid
	EventsToken  string // secret: what is told in the job's name begins with it; see internal/jobwire
	CacheToken   string // secret
	SigningKey   string // secret
	NixConfig    string // lines of nix.conf; Nix reads it by itself
}

type field struct {
	name  string
	value *string
}

// fields pairs each name with the field it stands for.
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

// Environ returns the job as NAME=value strings. What is not set is there, too, and
// empty: a job image may have a variable of that name.
func (j Job) Environ() []string {
	var environ []string
	for _, f := range j.fields() {
		environ = append(environ, f.name+"="+*f.value)
	}
	return environ
}

// Parse splits a container's environment into the job and the rest, which is what
// the job's children may see: nothing of the job but Nix's own configuration.
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
