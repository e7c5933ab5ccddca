package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	outputRounds = 5
	outputDepth  = 20   // derivations that need all of the level below
	outputWidth  = 1000 // derivations of a level
)

// manyDerivationFiles is a derivation that needs 20,000 others, in levels. Each derivation needs ten of the level below.
// The outputs of every tenth level exist.
var manyDerivationFiles = fmt.Sprintf(`nix-instantiate --add-root /result -E '
let
  inherit (builtins) genList elemAt concatStringsSep toString;
  width = %d;
  make = name: needs: derivation { inherit name needs; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; };
  level = n: if n == 0 then genList (i: make "d-0-${toString i}" [ ]) width
    else let below = level (n - 1); in
      genList (i: make "d-${toString n}-${toString i}" (genList (k: let j = i * 7 + k * 13; in elemAt below (j - j / width * width)) 10)) width;
in make "top" (level %d)'
nix-store --realise $(nix-store -qR /result | grep -e '-d-0-.*drv$' | head -n 200) >/dev/null`, outputWidth, outputDepth-1)

// benchOutputs measures how long it takes to find the paths that a job has to push.
func benchOutputs(ctx context.Context, image string, table *strings.Builder) error {
	filled, err := fillStore(ctx, image, manyDerivationFiles)
	if err != nil {
		return err
	}
	defer exec.Command("docker", "rmi", filled).Run()
	folder, err := os.MkdirTemp("", "iglu-bench-outputs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	program := filepath.Join(folder, "outputs")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./test/kit/cmd/outputs")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	// Both run in one container, so that both read from the page cache.
	script := fmt.Sprintf(`drv=$(readlink -f /result)
for round in $(seq %d); do
  begun=$(date +%%s.%%N); nix-store -qR "$drv" > /tmp/paths; ended=$(date +%%s.%%N)
  echo "nix $(grep -c drv$ /tmp/paths) $begun $ended"
  echo "ours $(/outputs "$drv")"
done`, outputRounds+1)
	output, err := exec.CommandContext(ctx, "docker", "run", "--rm", "--volume", program+":/outputs:ro", filled, "bash", "-ec", script).Output()
	if err != nil {
		return err
	}
	var ours, theirs []time.Duration
	var derivations, paths, memory int
	for i, line := range strings.Split(strings.TrimSpace(string(output)), "\n") {
		var took, begun, ended float64
		if rest, ok := strings.CutPrefix(line, "ours "); ok {
			_, err = fmt.Sscan(rest, &paths, &took, &memory)
		} else {
			_, err = fmt.Sscan(strings.TrimPrefix(line, "nix "), &derivations, &begun, &ended)
		}
		if err != nil {
			return fmt.Errorf("read %q: %w", line, err)
		}
		switch {
		case i < 2: // the first round is not counted
		case took > 0:
			ours = append(ours, time.Duration(took*float64(time.Second)))
		default:
			theirs = append(theirs, time.Duration((ended-begun)*float64(time.Second)))
		}
	}
	a, b := quantile(slices.Clone(ours), 0.5), quantile(slices.Clone(theirs), 0.5)
	fmt.Fprintf(table, "| %d derivations, of which %d have an output that is there | median of %d | against nix-store | peak memory |\n|---|---|---|---|\n", derivations, paths, outputRounds)
	fmt.Fprintf(table, "| what they yield, iglu-builder | %.2f s | %.2f | %d MiB |\n", a.Seconds(), a.Seconds()/b.Seconds(), memory)
	fmt.Fprintf(table, "| `nix-store --query --requisites` | %.2f s | 1.00 | |\n", b.Seconds())
	return nil
}
