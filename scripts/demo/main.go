// Demo shows one job from end to end. It needs a running Docker engine. It starts a builder, a git server and a binary
// cache, submits examples/hello, shows the log, fetches the result from the cache with Nix in another container, and
// removes everything that it made. 'make demo' runs it.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"iglu.sh/builder/images"
	"iglu.sh/builder/scripts/internal/server"
	"iglu.sh/builder/test/kit/gitserver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Printf("\n== "+format+"\n", args...) }

func run(ctx context.Context) (err error) {
	image, err := jobImage(ctx)
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "iglu-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)

	repositories, stopGit, err := serveGit(folder)
	if err != nil {
		return err
	}
	defer stopGit()
	cache, err := serveCache(folder)
	if err != nil {
		return err
	}
	defer cache.close()
	builder, err := server.Start("--job-image", image)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, builder.Stop()) }()
	say("A builder listens on %s; jobs run in %s", builder.Address, image)

	job, err := writeJob(folder, repositories, cache)
	if err != nil {
		return err
	}
	path, err := submit(ctx, builder.Address, job)
	if err != nil {
		return err
	}
	return cache.copyBack(ctx, image, path)
}

// jobImage returns the job image: the configured one, or one made from Debian's packages if that is not available.
func jobImage(ctx context.Context) (string, error) {
	image := os.Getenv("IGLU_JOB_IMAGE")
	if image == "" {
		image = images.Default
	}
	if exec.CommandContext(ctx, "docker", "image", "inspect", image).Run() == nil {
		return image, nil
	}
	say("Pulling the job image %s", image)
	pull := exec.CommandContext(ctx, "docker", "pull", image)
	pull.Stdout, pull.Stderr = os.Stdout, os.Stdout
	if pull.Run() == nil {
		return image, nil
	}
	say("The job image cannot be pulled: using one made from Debian's packages instead")
	fallback := exec.CommandContext(ctx, "scripts/job-image")
	fallback.Stderr = os.Stderr
	name, err := fallback.Output()
	if err != nil {
		return "", fmt.Errorf("make a job image: %w", err)
	}
	return strings.TrimSpace(string(name)), nil
}

// serveGit serves examples/hello as a repository over HTTP at an address that containers can reach. It returns the URL
// below which the repository is.
func serveGit(folder string) (url string, stop func() error, err error) {
	root := filepath.Join(folder, "repositories")
	if err := gitserver.Publish(root, "hello", "examples/hello"); err != nil {
		return "", nil, err
	}
	url, stop, err = gitserver.Serve(&gitserver.Server{Root: root})
	if err == nil {
		say("A git server serves %s/hello", url)
	}
	return url, stop, err
}

// writeJob writes the example's job with the addresses of the demo's servers, and shows it without its keys.
func writeJob(folder, repositories string, cache *binaryCache) (string, error) {
	job, err := os.ReadFile("examples/hello/job-push.json")
	if err != nil {
		return "", err
	}
	servers := strings.NewReplacer("http://git.example.com", repositories, "http://cache.example.com/default", cache.url)
	keys := strings.NewReplacer("API_KEY", cache.token, "SIGNING_KEY", cache.signingKey)
	text := servers.Replace(string(job))
	name := filepath.Join(folder, "job.json")
	say("The job:")
	fmt.Print(text)
	return name, os.WriteFile(name, []byte(keys.Replace(text)), 0o600)
}

var printedPath = regexp.MustCompile(`(?m)^/nix/store/\S+$`)

// submit sends the job and returns the path of its result.
func submit(ctx context.Context, address, job string) (path string, err error) {
	say("%s build --url ws://%s job.json", server.Program, address)
	client := exec.CommandContext(ctx, server.Program, "build", "--url", "ws://"+address, job)
	client.Cancel = func() error { return client.Process.Signal(syscall.SIGTERM) }
	var log bytes.Buffer
	client.Stdout, client.Stderr = io.MultiWriter(os.Stdout, &log), os.Stdout
	if err := client.Run(); err != nil {
		return "", fmt.Errorf("the build failed: %w", err)
	}
	say("The build's exit code is 0")
	if path = printedPath.FindString(log.String()); path == "" {
		return "", errors.New("the build has printed no store path")
	}
	return path, nil
}
