package orchestrator

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/nixconf"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/schemas"
)

// Push says how jobs push to caches.
type Push struct {
	Uploads  int // how many paths go up at once
	PartSize int // of the parts that they go up in, in bytes
	// Upstream is true when paths are pushed that cache.nixos.org, or a key that the
	// request trusts, has signed.
	Upstream bool
}

// upstreamKey is the public key of cache.nixos.org, which Nix trusts by default.
const upstreamKey = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="

// NixSettings are what an operator sets of Nix for all jobs.
type NixSettings struct {
	// Lines are of nix.conf, for the Nix of all in a job's container. They hold no secrets.
	Lines string
	// AccessTokens are secrets: Nix's setting of that name, by host. Each job gets them.
	AccessTokens map[string]string
	// PublicKeys are those of the lines that Nix trusts.
	PublicKeys []string
	// Trust are those of the lines that decide which paths Nix takes from elsewhere.
	Trust []string
	// AcceptFlakeConfig is true when what the flake in a job's source says of substituters and
	// keys counts.
	AcceptFlakeConfig bool
}

// jobOf returns what the container of a request is told.
func jobOf(r *schemas.Request, o Options) jobenv.Job {
	user, push := o.JobUser, o.Push
	job := jobenv.Job{
		Repository:   r.Git.Repository,
		Branch:       r.Git.Branch,
		GitUsername:  r.Git.GitUsername,
		GitKey:       r.Git.GitKey,
		Command:      r.BuildOptions.Command,
		ExtraArgs:    r.BuildOptions.ExtraArgs,
		JobUser:      string(user),
		FetchTimeout: o.FetchTimeout.String(),
		NixConfig:    nixConfig(&r.BuildOptions),
		NixConf:      o.Nix.Lines,
		Netrc:        r.Nix.Netrc,
	}
	// A job's own token for a host counts.
	tokens := make(map[string]string)
	maps.Copy(tokens, o.Nix.AccessTokens)
	maps.Copy(tokens, r.Nix.AccessTokens)
	job.AccessTokens = jobenv.JoinTokens(tokens)
	if o.Nix.AcceptFlakeConfig {
		job.FlakeConfig = "true"
	}
	if o.Stores.Mode == stores.Shared {
		job.StoreOfAll = "true"
	}
	if r.Colors {
		job.Colors = "true"
	}
	if user == UserNix || r.BuildOptions.Cachix.Push { // else there is no daemon
		job.DaemonConfig = job.NixConfig + storeConfig(&r.BuildOptions) + daemonTrust
	}
	if user == UserRoot {
		job.NixConfig += storeConfig(&r.BuildOptions)
	}
	if o.GitDepth > 0 {
		job.GitDepth = strconv.Itoa(o.GitDepth)
	}
	if r.Git.NoClone {
		job.NoClone = "true"
	}
	if cachix := r.BuildOptions.Cachix; cachix.Push {
		job.CacheTarget, job.CacheToken, job.SigningKey = cachix.Target, cachix.APIKey, cachix.SigningKey
		job.PushUploads, job.PushPartSize = strconv.Itoa(push.Uploads), strconv.Itoa(push.PartSize)
		if !push.Upstream {
			job.UpstreamKeys = strings.Join(slices.Concat([]string{upstreamKey}, o.Nix.PublicKeys, r.BuildOptions.TrustedPublicKeys), " ")
		}
	}
	return job
}

// storeOf returns what of a request decides which store its job has. A job's user cannot write into
// its store, but has a say in what the daemon puts there: what is signed by a key that the request
// trusts is taken for what a derivation yields. So jobs share a store only if they trust the same
// keys; and those that push, whose outputs others will trust, only if they push to the same cache with
// the same key; and those that have tokens for other hosts, whose store has what is fetched with them,
// only if they have the same.
func storeOf(r *schemas.Request, o Options, image engine.Image) stores.Job {
	job := stores.Job{
		Image:    image,
		User:     string(o.JobUser),
		Keys:     r.BuildOptions.TrustedPublicKeys,
		Operator: o.Nix.Trust,
		Flakes:   o.Nix.AcceptFlakeConfig,
		Branch:   r.Git.Branch,
	}
	if !r.Git.NoClone {
		job.Repository = r.Git.Repository
	}
	for _, substituter := range r.BuildOptions.Substituters {
		// Such as "?trusted=1": help-stores of Nix's manual.
		if u, err := url.Parse(substituter); err != nil || u.RawQuery != "" {
			job.Unsigned = append(job.Unsigned, substituter)
		}
	}
	if nix := r.Nix; len(nix.AccessTokens) > 0 || nix.Netrc != "" {
		job.Reads = []string{"tokens", jobenv.JoinTokens(nix.AccessTokens), nix.Netrc}
	}
	switch cachix := r.BuildOptions.Cachix; {
	case !cachix.Push:
	case cachix.SigningKey != "":
		// A private cache is also taken from, by its own key: another is another trust.
		job.Pushes = []string{"signing key", cachix.SigningKey, cachix.Target}
	default:
		job.Pushes = []string{"API key", cachix.APIKey, cachix.Target}
	}
	return job
}

// secretsOf returns what nobody but the job of a request may see.
func secretsOf(r *schemas.Request, o Options) []string {
	secrets := r.Secrets()
	for _, token := range o.Nix.AccessTokens {
		secrets = append(secrets, token, schemas.BareToken(token))
	}
	return secrets
}

// shownProperties returns the properties that are for secrets which stand in a request's command
// line, each once.
func shownProperties(r *schemas.Request) []string {
	var properties []string
	for _, shown := range r.Shown() {
		properties = append(properties, shown.Property)
	}
	return slices.Compact(slices.Sorted(slices.Values(properties)))
}

// A JobUser is who a job's own programs run as.
type JobUser string

// The users of jobs.
const (
	UserNix  JobUser = jobenv.UserNix  // an unprivileged one, for whom a nix-daemon builds
	UserRoot JobUser = jobenv.UserRoot // root, who can do anything in the container, and to its store
)

// nixConfig returns those of a request's options, as lines of nix.conf, that Nix's commands tell
// the daemon whoever asks. No value holds a line end: schemas.ParseRequest refuses them.
func nixConfig(o *schemas.BuildOptions) string {
	var conf nixconf.Lines
	conf.Set("extra-experimental-features", "nix-command flakes")
	conf.Set("tarball-ttl", 0) // a store that outlives jobs must not build what a branch was
	if o.Cores != nil {
		conf.Set("cores", *o.Cores)
	}
	if o.MaxJobs != nil {
		conf.Set("max-jobs", *o.MaxJobs)
	}
	if o.KeepGoing {
		conf.Set("keep-going", true)
	}
	return conf.String()
}

// storeConfig returns likewise those that are settings of the store: a daemon takes them from
// nobody but root.
func storeConfig(o *schemas.BuildOptions) string {
	var conf nixconf.Lines
	conf.Set("build-dir", jobenv.BuildDir)
	conf.SetList("extra-substituters", o.Substituters)
	conf.SetList("extra-trusted-public-keys", o.TrustedPublicKeys)
	return conf.String()
}

// addStoreConfig adds lines to those that are settings of the store.
func addStoreConfig(job *jobenv.Job, lines string) {
	if job.DaemonConfig != "" {
		job.DaemonConfig += lines
	}
	if job.JobUser == jobenv.UserRoot {
		job.NixConfig += lines
	}
}

// daemonTrust has the daemon trust root alone and build as others, whatever the image says.
const daemonTrust = "trusted-users = root\nallowed-users = *\nbuild-users-group = nixbld\n"

// Settings of Nix. Without a fallback, a build that should be in the sandbox and cannot be
// fails.
const (
	nixSandboxed   = "sandbox = true\nsandbox-fallback = false\n"
	nixUnsandboxed = "sandbox = false\n"
)
