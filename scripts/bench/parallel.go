package main

import (
	"context"
	"fmt"
	"strings"

	"iglu.sh/builder/schemas"
)

// parallelRounds is how many times each contender is measured.
const parallelRounds = 3

// busyDerivations are eight independent derivations. Each needs about 2 s of processor time.
const busyDerivations = `nix-build --no-out-link -E 'map (n: derivation { name = "busy-${toString n}"; system = builtins.currentSystem; ` +
	`builder = "/bin/sh"; args = [ "-c" "i=0; while [ $i -lt 600000 ]; do i=$((i+1)); done; echo > $out; exit" ]; }) ` +
	`(builtins.genList (n: n) 8)'`

// benchParallel measures how much faster a job is because it builds on all of its CPUs.
func benchParallel(ctx context.Context, image string, table *strings.Builder) error {
	s, err := startBuilder(image)
	if err != nil {
		return err
	}
	defer s.stop()
	container, err := newWorkshop(ctx, image)
	if err != nil {
		return err
	}
	defer container.remove()
	job := schemas.Request{Git: schemas.Git{NoClone: true}, BuildOptions: schemas.BuildOptions{Command: "sh", ExtraArgs: `-c "` +
		strings.NewReplacer(`"`, `\"`, `$`, `\$`).Replace(busyDerivations) + `"`}}
	medians, err := s.race(ctx, parallelRounds, []contender{
		{"builder", nil, s.runs(job)},
		{"exec", func() error { return container.renew(ctx) }, func(ctx context.Context) error { return container.exec(ctx, busyDerivations).Run() }},
	})
	if err != nil {
		return err
	}
	ours, theirs := medians["builder"].Seconds(), medians["exec"].Seconds()
	fmt.Fprintf(table, "| 8 derivations of some 2 s of a processor each, median of %d | | against `docker exec` |\n|---|---|---|\n", parallelRounds)
	fmt.Fprintf(table, "| iglu-builder | %.2f s | %.2f |\n| `docker exec`, with the image's settings | %.2f s | 1.00 |\n", ours, ours/theirs, theirs)
	return nil
}
