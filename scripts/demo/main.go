// Demo shows one job from end to end on a machine where a Docker engine answers: it
// starts a builder, a git server and a binary cache, submits examples/hello, shows the
// log, has Nix in another container get the result from the cache, and removes all that
// it made. 'make demo' runs it.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"iglu.sh/builder/images"
	"iglu.sh/builder/internal/gitserver"
)

const builder = "bin/iglu-builder"

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
	// A name of its own, so that two demos do not meet.
	instance := filepath.Base(folder)
	address, stopServer, err := startServer(image, instance, folder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopServer(), removeInstance(instance)) }()

	job, err := writeJob(folder, repositories, cache)
	if err != nil {
		return err
	}
	path, err := submit(ctx, address, job)
	if err != nil {
		return err
	}
	return cache.copyBack(ctx, image, path)
}

// jobImage returns the image that jobs run in: the configured one, or where it
// cannot be had, one made from Debian's packages.
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
	say("No registry gives it out here: a job image made from Debian's packages stands in")
	fallback := exec.CommandContext(ctx, "scripts/job-image")
	fallback.Stderr = os.Stderr
	name, err := fallback.Output()
	if err != nil {
		return "", fmt.Errorf("make a job image: %w", err)
	}
	return strings.TrimSpace(string(name)), nil
}

// serveGit serves examples/hello as a repository over HTTP, where containers of the
// engine reach it, and returns the URL that repositories are below.
func serveGit(folder string) (url string, stop func() error, err error) {
	root := filepath.Join(folder, "repositories")
	if err := gitserver.Publish(root, "hello", "examples/hello"); err != nil {
		return "", nil, err
	}
	listener, err := gitserver.Listen()
	if err != nil {
		return "", nil, fmt.Errorf("serve git where containers reach it: %w", err)
	}
	server := &http.Server{Handler: &gitserver.Server{Root: root}}
	go server.Serve(listener)
	url = "http://" + listener.Addr().String()
	say("A git server serves %s/hello", url)
	return url, server.Close, nil
}

var listening = regexp.MustCompile(`msg=listening addr=(\S+)`)

// startServer starts a builder on a free port that keeps its state in folder.
func startServer(image, instance, folder string) (address string, stop func() error, err error) {
	server := exec.Command(builder, "serve")
	server.Env = append(os.Environ(), "IGLU_LISTEN=127.0.0.1:0", "IGLU_LOG_FORMAT=text", "IGLU_LOG_LEVEL=info",
		"IGLU_JOB_IMAGE="+image, "IGLU_INSTANCE="+instance, "IGLU_STATE_DIR="+folder)
	// Ctrl-C is for the demo, which stops the server when its client is done.
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := server.StderrPipe()
	if err != nil {
		return "", nil, err
	}
	if err := server.Start(); err != nil {
		return "", nil, err
	}
	stop = func() error {
		server.Process.Signal(syscall.SIGTERM)
		return server.Wait()
	}
	var said bytes.Buffer
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			say("A builder listens on %s; jobs run in %s", m[1], image)
			go discard(lines)
			return m[1], stop, nil
		}
		fmt.Fprintln(&said, lines.Text())
	}
	return "", nil, fmt.Errorf("the builder does not start: %w\n%s", stop(), said.String())
}

func discard(lines *bufio.Scanner) {
	for lines.Scan() {
	}
}

// writeJob writes the example's job with the demo's own servers in it, and shows it
// without its keys.
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
	say("%s build --url ws://%s job.json", builder, address)
	client := exec.CommandContext(ctx, builder, "build", "--url", "ws://"+address, job)
	client.Cancel = func() error { return client.Process.Signal(syscall.SIGTERM) }
	var log bytes.Buffer
	client.Stdout, client.Stderr = io.MultiWriter(os.Stdout, &log), os.Stdout
	if err := client.Run(); err != nil {
		return "", fmt.Errorf("the build failed: %w", err)
	}
	say("The build's exit code is 0")
	if path = printedPath.FindString(log.String()); path == "" {
		return "", errors.New("the build has printed no path")
	}
	return path, nil
}

// removeInstance removes what the demo's builder keeps on the engine for its next
// job: it has no next one.
func removeInstance(instance string) error {
	var errs []error
	for _, kind := range []string{"volume", "network"} {
		names, err := exec.Command("docker", kind, "ls", "--quiet", "--filter", "label=sh.iglu.builder.instance="+instance).Output()
		errs = append(errs, err)
		for _, name := range strings.Fields(string(names)) {
			errs = append(errs, exec.Command("docker", kind, "rm", name).Run())
		}
	}
	return errors.Join(errs...)
}
