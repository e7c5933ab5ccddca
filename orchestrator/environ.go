package orchestrator

import (
	"fmt"
	"strconv"
	"strings"

	"iglu.sh/builder/internal/jobenv"
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
			job.UpstreamKeys = strings.Join(append([]string{upstreamKey}, r.BuildOptions.TrustedPublicKeys...), " ")
		}
	}
	return job
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
	var conf confLines
	conf.set("extra-experimental-features", "nix-command flakes")
	conf.set("tarball-ttl", 0) // a store that outlives jobs must not build what a branch was
	if o.Cores != nil {
		conf.set("cores", *o.Cores)
	}
	if o.MaxJobs != nil {
		conf.set("max-jobs", *o.MaxJobs)
	}
	if o.KeepGoing {
		conf.set("keep-going", true)
	}
	return conf.String()
}

// storeConfig returns likewise those that are settings of the store: a daemon takes them from
// nobody but root.
func storeConfig(o *schemas.BuildOptions) string {
	var conf confLines
	conf.set("build-dir", jobenv.BuildDir)
	if len(o.Substituters) > 0 {
		conf.set("extra-substituters", strings.Join(o.Substituters, " "))
	}
	if len(o.TrustedPublicKeys) > 0 {
		conf.set("extra-trusted-public-keys", strings.Join(o.TrustedPublicKeys, " "))
	}
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

// confLines are lines of nix.conf.
type confLines struct{ strings.Builder }

func (c *confLines) set(name string, value any) { fmt.Fprintf(c, "%s = %v\n", name, value) }
