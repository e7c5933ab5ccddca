package orchestrator

import (
	"fmt"
	"strings"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/schemas"
)

// environ returns what the container of a request is told.
func environ(r *schemas.Request) []string {
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
	}
	return job.Environ()
}

// nixConfig returns a request's options as lines of nix.conf. No value holds a line
// end: schemas.ParseRequest refuses them.
func nixConfig(o *schemas.BuildOptions) string {
	var conf strings.Builder
	set := func(name string, value any) { fmt.Fprintf(&conf, "%s = %v\n", name, value) }
	set("extra-experimental-features", "nix-command flakes")
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
