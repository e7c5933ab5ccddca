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
func jobOf(r *schemas.Request, push Push) jobenv.Job {
	job := jobenv.Job{
		Repository:  r.Git.Repository,
		Branch:      r.Git.Branch,
		GitUsername: r.Git.GitUsername,
		GitKey:      r.Git.GitKey,
		Command:     r.BuildOptions.Command,
		ExtraArgs:   r.BuildOptions.ExtraArgs,
		NixConfig:   nixConfig(&r.BuildOptions),
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

// nixConfig returns a request's options as lines of nix.conf. No value holds a line
// end: schemas.ParseRequest refuses them.
func nixConfig(o *schemas.BuildOptions) string {
	var conf strings.Builder
	set := func(name string, value any) { fmt.Fprintf(&conf, "%s = %v\n", name, value) }
	set("extra-experimental-features", "nix-command flakes")
	set("build-dir", jobenv.BuildDir)
	if o.Cores != nil {
		set("cores", *o.Cores)
	}
	if o.MaxJobs != nil {
		set("max-jobs", *o.MaxJobs)
	}
	if o.KeepGoing {
		set("keep-going", true)
	}
	if len(o.Substituters) > 0 {
		set("extra-substituters", strings.Join(o.Substituters, " "))
	}
	if len(o.TrustedPublicKeys) > 0 {
		set("extra-trusted-public-keys", strings.Join(o.TrustedPublicKeys, " "))
	}
	return conf.String()
}
