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
	Uploads  int // how many paths are uploaded at once
	PartSize int // the size of the parts of an upload, in bytes
	// Upstream is true if paths are pushed although they are signed by cache.nixos.org or by a key that
	// the request trusts.
	Upstream bool
}

// upstreamKey is the public key of cache.nixos.org, which Nix trusts by default.
const upstreamKey = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="

// NixSettings are the operator's settings of Nix for all jobs.
type NixSettings struct {
	// Lines are lines of nix.conf for every program in a job's container. They contain no secrets.
	Lines string
	// AccessTokens is Nix's setting access-tokens, by host. The tokens are secrets. Each job gets them.
	AccessTokens map[string]string
	// PublicKeys are the public keys in Lines.
	PublicKeys []string
	// Trust are the settings in Lines that decide which paths Nix accepts from other machines.
	Trust []string
	// AcceptFlakeConfig is true if Nix accepts the substituters and keys that the flake in a job's source
	// sets.
	AcceptFlakeConfig bool
}

// jobOf returns the parameters of a request's container.
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
	// A job's own token for a host replaces the operator's.
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
	if user == UserNix || r.BuildOptions.Cachix.Push { // otherwise there is no daemon
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

// storeOf returns the parts of a request that decide which store its job has. See package stores for the reasons.
// sandboxed is true if Nix uses its own sandbox.
func storeOf(r *schemas.Request, o Options, sandboxed bool, image engine.Image) stores.Job {
	job := stores.Job{
		Image:     image,
		User:      string(o.JobUser),
		Sandboxed: sandboxed,
		Keys:      r.BuildOptions.TrustedPublicKeys,
		Operator:  o.Nix.Trust,
		Flakes:    o.Nix.AcceptFlakeConfig,
		Branch:    r.Git.Branch,
	}
	if !r.Git.NoClone {
		job.Repository = r.Git.Repository
	}
	unsigned := nixconf.IsOff(o.Nix.Lines, "require-sigs")
	for _, substituter := range r.BuildOptions.Substituters {
		// A query such as "?trusted=1": help-stores of Nix's manual.
		if u, err := url.Parse(substituter); unsigned || err != nil || u.RawQuery != "" {
			job.Unsigned = append(job.Unsigned, substituter)
		}
	}
	if nix := r.Nix; len(nix.AccessTokens) > 0 || nix.Netrc != "" {
		job.Reads = []string{"tokens", jobenv.JoinTokens(nix.AccessTokens), nix.Netrc}
	}
	switch cachix := r.BuildOptions.Cachix; {
	case !cachix.Push:
	case cachix.SigningKey != "":
		// Jobs also trust a private cache's own key, so jobs of another cache have another store.
		job.Pushes = []string{"signing key", cachix.SigningKey, cachix.Target}
	default:
		job.Pushes = []string{"API key", cachix.APIKey, cachix.Target}
	}
	return job
}

// secretsOf returns the texts that only the job of a request may see.
func secretsOf(r *schemas.Request, o Options) []string {
	secrets := r.Secrets()
	for _, token := range o.Nix.AccessTokens {
		secrets = append(secrets, token, schemas.BareToken(token))
	}
	return secrets
}

// shownProperties returns the properties that should hold the secrets which a request has in its command line.
// Each property occurs once.
func shownProperties(r *schemas.Request) []string {
	var properties []string
	for _, shown := range r.Shown() {
		properties = append(properties, shown.Property)
	}
	return slices.Compact(slices.Sorted(slices.Values(properties)))
}

// A JobUser is the user that runs a job's own programs.
type JobUser string

// The users of jobs.
const (
	UserNix  JobUser = jobenv.UserNix  // an unprivileged user, for whom a nix-daemon builds
	UserRoot JobUser = jobenv.UserRoot // root, who can do anything in the container, also with its store
)

// nixConfig returns the options of a request that any user may set, as lines of nix.conf: Nix's commands send
// them to the daemon. No value contains a line end: schemas.ParseRequest refuses them.
func nixConfig(o *schemas.BuildOptions) string {
	var conf nixconf.Lines
	conf.Set("extra-experimental-features", "nix-command flakes")
	conf.Set("tarball-ttl", 0) // a store that is kept between jobs must not use an old state of a branch
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

// storeConfig returns the options that are settings of the store, as lines of nix.conf: a daemon accepts them only
// from root.
func storeConfig(o *schemas.BuildOptions) string {
	var conf nixconf.Lines
	conf.Set("build-dir", jobenv.BuildDir)
	conf.SetList("extra-substituters", o.Substituters)
	conf.SetList("extra-trusted-public-keys", o.TrustedPublicKeys)
	return conf.String()
}

// addStoreConfig adds lines to the settings of the store.
func addStoreConfig(job *jobenv.Job, lines string) {
	if job.DaemonConfig != "" {
		job.DaemonConfig += lines
	}
	if job.JobUser == jobenv.UserRoot {
		job.NixConfig += lines
	}
}

// daemonTrust makes the daemon trust only root and build as the build users, whatever the image's settings are.
const daemonTrust = "trusted-users = root\nallowed-users = *\nbuild-users-group = nixbld\n"

// Settings of Nix. Without the fallback, a build fails if it should be in the sandbox and cannot be.
const (
	nixSandboxed   = "sandbox = true\nsandbox-fallback = false\n"
	nixUnsandboxed = "sandbox = false\nauto-optimise-store = false\n" // for the latter see forbidLinks in package docker
)
