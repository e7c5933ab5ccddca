package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"

	"iglu.sh/builder/schemas"
)

const fillRounds = 3

// fillVolume is a volume that the engine fills without the builder.
const fillVolume = "iglu-bench-fill"

// benchFill measures how long the first job of a repository waits for its store, which is filled from the image.
func benchFill(ctx context.Context, image string, table *strings.Builder) error {
	s, err := startBuilder(image)
	if err != nil {
		return err
	}
	defer s.stop()
	repository, err := publishFlake(ctx, image)
	if err != nil {
		return err
	}
	defer repository.close()
	removeVolume := func() error { return exec.Command("docker", "volume", "rm", "--force", fillVolume).Run() }
	defer removeVolume()
	// The removal of files keeps the file system busy for longer than a fill takes.
	synced := func(remove func() error) func() error {
		return func() error {
			err := remove()
			syscall.Sync()
			return err
		}
	}

	job := s.runs(schemas.Request{Git: schemas.Git{Repository: repository.url}, BuildOptions: schemas.BuildOptions{Command: "nix --version"}})
	run := func(arguments ...string) func(context.Context) error {
		return dockerRuns(append(append([]string{"run", "--rm"}, arguments...), image, "nix", "--version")...)
	}
	medians, err := s.race(ctx, fillRounds, []contender{
		{"first", synced(s.RemoveStores), job},
		{"second", nil, job},
		{"run, new volume", synced(removeVolume), run("--volume", fillVolume+":/nix")},
		{"run, same volume", nil, run("--volume", fillVolume+":/nix")},
	})
	if err != nil {
		return err
	}
	files, err := exec.CommandContext(ctx, "docker", "run", "--rm", image, "sh", "-c", "find /nix -type f | wc -l; du -sm /nix | cut -f 1").Output()
	if err != nil {
		return err
	}
	var count, megabytes int
	if _, err := fmt.Sscan(string(files), &count, &megabytes); err != nil {
		return fmt.Errorf("count the store's files: %w", err)
	}
	fmt.Fprintf(table, "| `nix --version` in a store of %d files, %d MB, median of %d | iglu-builder | docker run --rm --volume |\n|---|---|---|\n", count, megabytes, fillRounds)
	fmt.Fprintf(table, "| a new store, which is filled | %.2f s | %.2f s |\n", medians["first"].Seconds(), medians["run, new volume"].Seconds())
	fmt.Fprintf(table, "| the same store again | %.2f s | %.2f s |\n", medians["second"].Seconds(), medians["run, same volume"].Seconds())
	return nil
}
