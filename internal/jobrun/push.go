package jobrun

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/push"
	"iglu.sh/builder/schemas"
)

// preparePush returns what pushes the job's results and speaks through out, or nil where
// there is nothing to push. Where that could not be done, it says why and returns an exit
// code.
func preparePush(ctx context.Context, job jobenv.Job, out *output, meter *pushMeter) (*push.Pusher, int) {
	if job.CacheTarget == "" {
		return nil, 0
	}
	uploads, err1 := strconv.Atoi(job.PushUploads)
	partSize, err2 := strconv.Atoi(job.PushPartSize)
	if err := errors.Join(err1, err2); err != nil {
		say("%v", err)
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
	if refusal, ok := errors.AsType[*push.Refusal](err); ok && refusal.Temporary {
		return nil, exitUnavailable
	}
	return nil, exitConfig
}

// buildAndPush runs the job's command and pushes what it yields.
func (b *builder) buildAndPush(ctx context.Context, pusher *push.Pusher, out *output, meter *pushMeter) int {
	daemon, err := openDaemon(b.runner)
	if err != nil {
		say("cannot ask the image's Nix what is to be pushed: %v", err)
		return exitInternal
	}
	defer daemon.Close()
	defer context.AfterFunc(ctx, func() { daemon.Close() })()
	store, err := nixstore.Open(daemon)
	if err != nil {
		say("%v", err)
		return exitInternal
	}
	before := resultLinks()
	if err := pusher.Watch(ctx, store); err != nil {
		say("%v", err)
		return exitInternal
	}
	stdout, err := newTap(out)
	if err != nil {
		say("cannot read what the build prints: %v", err)
		return exitInternal
	}
	code := b.build(stdout.in)
	stdout.close()
	b.teller.phase(schemas.PushRest)
	unpushed := pusher.Finish(ctx, append(newLinks(before), out.end()...))
	meter.end()
	if code != 0 || unpushed == "" {
		return code
	}
	if err := mark(jobenv.Unpushed, unpushed); err != nil {
		say("%v", err)
	}
	return jobenv.ExitUnpushed
}

// daemon is a connection to Nix's daemon.
type daemon struct {
	io.Reader
	io.Writer
	close func() error
}

func (d *daemon) Close() error { return d.close() }

// openDaemon returns a connection to a daemon that trusts us: the job's, or else one that runs for
// this connection alone.
func openDaemon(r runner) (*daemon, error) {
	if !r.user.isRoot() {
		return dialDaemon()
	}
	program, err := exec.LookPath("nix-daemon")
	if err != nil {
		return nil, err
	}
	stdin, requests, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	answers, stdout, err := os.Pipe()
	if err != nil {
		requests.Close()
		return nil, err
	}
	defer stdout.Close()
	d := &daemon{answers, requests, func() error { return errors.Join(requests.Close(), answers.Close()) }}
	_, err = r.children.start(process{program: program, argv: []string{"nix-daemon", "--stdio"}, dir: "/", environ: r.environ,
		files: []*os.File{stdin, stdout, os.Stderr}})
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// autoRoots is where Nix keeps a link to each link to a result that it makes, wherever
// that lies, so that its garbage collector knows of it.
const autoRoots = "/nix/var/nix/gcroots/auto"

// resultLinks returns the links to results that there are, and where they lead.
func resultLinks() map[string]string {
	links := make(map[string]string)
	roots, _ := os.ReadDir(autoRoots) // there is none before the first link
	for _, root := range roots {
		link, err := os.Readlink(filepath.Join(autoRoots, root.Name()))
		if err != nil {
			continue
		}
		if path, err := os.Readlink(link); err == nil && nixstore.IsPath(path) {
			links[link] = path
		}
	}
	return links
}

// newLinks returns where the links lead that were not there before.
func newLinks(before map[string]string) []string {
	var paths []string
	for link, path := range resultLinks() {
		if before[link] != path {
			paths = append(paths, path)
		}
	}
	return paths
}
