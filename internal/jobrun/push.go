package jobrun

import (
	"cmp"
	"context"
	"errors"
	"net"
	"runtime/debug"
	"strconv"
	"strings"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/push"
	"iglu.sh/builder/schemas"
)

// preparePush returns the Pusher for the job's results, or nil if nothing is to be pushed. The Pusher
// writes its messages to out. If a push is not possible, it says why and returns an exit code.
func preparePush(ctx context.Context, job jobenv.Job, out *output, meter *pushMeter) (*push.Pusher, int) {
	if job.CacheTarget == "" {
		return nil, 0
	}
	uploads, err1 := strconv.Atoi(job.PushUploads)
	partSize, err2 := strconv.Atoi(job.PushPartSize)
	if err := errors.Join(err1, err2); err != nil {
		sayWhy("", "%v", err)
		return nil, exitInternal
	}
	options := push.Options{
		Target:     job.CacheTarget,
		Token:      job.CacheToken,
		SigningKey: job.SigningKey,
		Upstream:   strings.Fields(job.UpstreamKeys),
		Uploads:    uploads,
		PartSize:   partSize,
		Progress:   meter.set,
	}
	debug.SetMemoryLimit(options.Memory())
	pusher, err := push.Prepare(ctx, options, out.say)
	if err == nil {
		return pusher, 0
	}
	say("nothing could be pushed, so nothing is built: %v", err)
	refusal, ok := errors.AsType[*push.Refusal](err)
	if !ok {
		refusal = &push.Refusal{What: err.Error()}
	}
	advice := "Nothing was built, because nothing could have been pushed."
	if refusal.Advice != "" {
		advice += " " + upperFirst(refusal.Advice) + "."
	}
	why.set(advice, cmp.Or(refusal.Reason, refusal.What))
	if refusal.Temporary {
		return nil, exitUnavailable
	}
	return nil, exitConfig
}

// readPrivate returns what Nix's daemon needs to download from the private cache to which the job pushes:
// the trust in it, and a netrc entry with the API key. A job that runs as root does not get that, because
// its programs could read the key.
func readPrivate(job jobenv.Job, pusher *push.Pusher) (t trust, netrc string) {
	if pusher == nil || job.JobUser == jobenv.UserRoot {
		return trust{}, ""
	}
	cache, ok := pusher.Substituter()
	if !ok {
		return trust{}, ""
	}
	netrc, err := cacheEntry(cache.URL, job.CacheToken, job.Netrc)
	if err != nil {
		say("nothing is downloaded from the private cache: %v", err)
		return trust{}, ""
	}
	return newTrust([]string{cache.URL}, cache.Keys), netrc
}

// buildAndPush runs the job's command and pushes the store paths that it uses.
func (b *builder) buildAndPush(ctx context.Context, pusher *push.Pusher, out *output, meter *pushMeter) jobwire.End {
	relay, err := startRelay(daemonSocket, relayedSocket, nixstore.Files{})
	if err != nil {
		sayWhy("", "cannot find out what is to be pushed: %v", err)
		return failed(exitInternal)
	}
	defer relay.close()
	daemon, err := net.Dial("unix", relayedSocket) // as root, whom it trusts
	if err != nil {
		sayWhy("", "cannot ask the image's Nix what is to be pushed: %v", err)
		return failed(exitInternal)
	}
	defer daemon.Close()
	defer context.AfterFunc(ctx, func() { daemon.Close() })()
	store, err := nixstore.Open(daemon)
	if err != nil {
		sayWhy("", "%v", err)
		return failed(exitInternal)
	}
	if err := pusher.Watch(ctx, store); err != nil {
		sayWhy("", "%v", err)
		return failed(exitInternal)
	}
	stdout, err := newTee(out)
	if err != nil {
		sayWhy("", "cannot read what the build prints: %v", err)
		return failed(exitInternal)
	}
	code := b.build(stdout.in)
	stdout.close()
	b.reporter.phase(schemas.PushRest)
	printed := out.end()
	unpushed := pusher.Finish(ctx, push.Command{Used: relay.paths(), Printed: printed})
	pushed := meter.end()
	if code == 0 {
		var source *push.Substituter
		if unpushed == "" {
			complete := pusher.Source()
			source = &complete
		}
		b.reportResults(printed, pushed, source)
	}
	if code != 0 || unpushed == "" {
		return failed(code)
	}
	return jobwire.End{ExitCode: jobenv.ExitUnpushed, Unpushed: unpushed}
}
