package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/gitserver"
)

const (
	sourceRounds  = 10
	sourceCommits = 10_000
	sourceFiles   = 1_000
)

// benchSource measures the cost of cloning the whole history of a repository.
func benchSource(ctx context.Context, image string, table *strings.Builder) error {
	root, err := os.MkdirTemp("", "iglu-bench-source-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	if err := writeHistory(ctx, filepath.Join(root, "long.git")); err != nil {
		return err
	}
	url, stop, err := gitserver.Serve(&gitserver.Server{Root: root})
	if err != nil {
		return err
	}
	defer stop()
	whole, err := startBuilder(image)
	if err != nil {
		return err
	}
	defer whole.stop()
	shallow, err := startBuilder(image, "--git-depth", "1")
	if err != nil {
		return err
	}
	defer shallow.stop()

	job := func(source schemas.Git) schemas.Request {
		return schemas.Request{Git: source, BuildOptions: schemas.BuildOptions{Command: "nix --version"}}
	}
	long := schemas.Git{Repository: url + "/long.git"}
	medians, err := whole.race(ctx, sourceRounds, []contender{
		{"whole", nil, whole.runs(job(long))},
		{"shallow", func() error { return shallow.settle(ctx) }, shallow.runs(job(long))},
		{"none", nil, whole.runs(job(schemas.Git{NoClone: true}))},
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(table, "| `nix --version` in a repository of %d commits and %d files | median of %d | against one commit |\n|---|---|---|\n", sourceCommits, sourceFiles, sourceRounds)
	for _, row := range []struct{ what, name string }{
		{"the whole history", "whole"},
		{"one commit (`IGLU_GIT_DEPTH=1`)", "shallow"},
		{"no clone", "none"},
	} {
		fmt.Fprintf(table, "| %s | %.2f s | %.2f |\n", row.what, medians[row.name].Seconds(), medians[row.name].Seconds()/medians["shallow"].Seconds())
	}
	return nil
}

// writeHistory makes a repository in which each commit changes a file.
func writeHistory(ctx context.Context, repository string) error {
	var history bytes.Buffer
	for n := range sourceCommits {
		fmt.Fprintf(&history, "commit refs/heads/main\ncommitter Iglu <iglu@example.com> %d +0000\ndata 6\ncommit\n", 1_700_000_000+n)
		files := []int{n % sourceFiles}
		if n == 0 {
			files = make([]int, sourceFiles)
			for i := range files {
				files[i] = i
			}
		}
		for _, file := range files {
			text := strings.Repeat(fmt.Sprintf("file %d of commit %d\n", file, n), 20)
			fmt.Fprintf(&history, "M 644 inline folder-%d/file-%d\ndata %d\n%s\n", file%20, file, len(text), text)
		}
	}
	if err := exec.CommandContext(ctx, "git", "init", "--quiet", "--bare", "--initial-branch=main", repository).Run(); err != nil {
		return err
	}
	load := exec.CommandContext(ctx, "git", "-C", repository, "fast-import", "--quiet")
	load.Stdin = &history
	if output, err := load.CombinedOutput(); err != nil {
		return fmt.Errorf("git fast-import: %w: %s", err, output)
	}
	return exec.CommandContext(ctx, "git", "-C", repository, "gc", "--quiet").Run()
}
