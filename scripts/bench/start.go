package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/gitserver"
)

const (
	startRounds     = 10
	firstRounds     = 1   // a round takes minutes
	leaves          = 299 // derivations that one more derivation needs
	maintenanceRest = 2500 * time.Millisecond
)

// manyDerivations is a flake of small derivations, each in its own file.
const manyDerivations = `{
  outputs = _:
    let
      make = name: script: derivation { inherit name; system = builtins.head systems; builder = "/bin/sh"; args = [ "-c" script ]; };
      systems = [ "%s" ];
      leaf = file: make file "echo ${builtins.readFile (./leaves + "/${file}")} > $out";
      all = map leaf (builtins.attrNames (builtins.readDir ./leaves));
    in { packages.${builtins.head systems}.default = make "all" "echo ${builtins.concatStringsSep " " (map toString all)} > $out"; };
}
`

// benchStart measures the cost of a separate container for each job.
func benchStart(ctx context.Context, image string, table *strings.Builder) error {
	s, err := startBuilder(image)
	if err != nil {
		return err
	}
	defer s.stop()
	ofRoot, err := startBuilder(image, "--job-user", "root")
	if err != nil {
		return err
	}
	defer ofRoot.stop()
	container, err := newWorkshop(ctx, image)
	if err != nil {
		return err
	}
	defer container.remove()
	repository, err := publishFlake(ctx, image)
	if err != nil {
		return err
	}
	defer repository.close()

	info := schemas.Request{Git: schemas.Git{NoClone: true}, BuildOptions: schemas.BuildOptions{Command: "nix store info"}}
	build := schemas.Request{Git: schemas.Git{Repository: repository.url}, BuildOptions: schemas.BuildOptions{Command: "nix build"}}
	// The builder does maintenance when it has had no job for 2 s. That must not run during a measurement.
	settled := func(more func() error) func() error {
		return func() error {
			time.Sleep(maintenanceRest)
			if err := errors.Join(s.settle(ctx), ofRoot.settle(ctx)); err != nil || more == nil {
				return err
			}
			return more()
		}
	}
	inWorkshop := func(ctx context.Context) error { return container.exec(ctx, repository.build()).Run() }
	medians := make(map[string]time.Duration)
	for _, part := range []struct {
		rounds     int
		contenders []contender
	}{
		{startRounds, []contender{
			{"noop", nil, s.runs(noop)},
			{"noop run", nil, dockerRuns("run", "--rm", image, "nix", "--version")},
			{"info", nil, s.runs(info)},
			{"info run", nil, dockerRuns("run", "--rm", image, "nix", "--extra-experimental-features", "nix-command", "store", "info")},
			{"noop exec", nil, func(ctx context.Context) error { return container.exec(ctx, "nix --version").Run() }},
		}},
		{firstRounds, []contender{
			{"first", s.RemoveStores, s.runs(build)},
			{"first exec", func() error { return container.renew(ctx) }, inWorkshop},
		}},
		{startRounds, []contender{
			{"second", settled(nil), s.runs(build)},
			{"second root", settled(nil), ofRoot.runs(build)},
			{"second exec", settled(nil), inWorkshop},
			{"third", settled(repository.change), s.runs(build)},
			{"third root", settled(nil), ofRoot.runs(build)},
			{"third exec", settled(nil), inWorkshop},
		}},
	} {
		these, err := s.race(ctx, part.rounds, part.contenders)
		if err != nil {
			return err
		}
		maps.Copy(medians, these)
	}
	overhead := medians["noop run"] - medians["noop exec"]
	fmt.Fprintf(table, "| median of %d, of the first job of %d | iglu-builder | in its place | ratio |\n|---|---|---|---|\n", startRounds, firstRounds)
	row := func(what string, ours, theirs time.Duration) {
		fmt.Fprintf(table, "| %s | %.2f s | %.2f s | %.2f |\n", what, ours.Seconds(), theirs.Seconds(), ours.Seconds()/theirs.Seconds())
	}
	row("`nix --version`, against `docker run --rm`", medians["noop"], medians["noop run"])
	row("`nix store info`, which asks the daemon, against `docker run --rm`", medians["info"], medians["info run"])
	row("the second job of the flake below, against one of root", medians["second"], medians["second root"])
	row("the third, against one of root", medians["third"], medians["third root"])
	for _, which := range []struct{ name, what string }{
		{"first", "the first job of a flake of 300 derivations"},
		{"second", "the second, unchanged"},
		{"third", "the third, one leaf changed"},
	} {
		row(which.what+", against `docker exec`", medians[which.name], medians[which.name+" exec"])
		row(which.what+", against that and the start of a container", medians[which.name], medians[which.name+" exec"]+overhead)
	}
	return nil
}

// A workshop is a long-running container in which docker exec runs builds.
type workshop struct{ image, id string }

func newWorkshop(ctx context.Context, image string) (*workshop, error) {
	w := &workshop{image: image}
	return w, w.renew(ctx)
}

// renew replaces the container by a new one with the store of the image.
func (w *workshop) renew(ctx context.Context) error {
	w.remove()
	output, err := exec.CommandContext(ctx, "docker", "run", "--detach", "--rm", w.image, "sleep", "infinity").Output()
	w.id = strings.TrimSpace(string(output))
	return err
}

func (w *workshop) remove() {
	if w.id != "" {
		exec.Command("docker", "rm", "--force", w.id).Run()
	}
}

func (w *workshop) exec(ctx context.Context, script string) *exec.Cmd {
	return exec.CommandContext(ctx, "docker", "exec", w.id, "sh", "-c", script)
}

// A flake is a repository with a flake that is served on this machine.
type flake struct {
	folder  string
	url     string
	stop    func() error
	changes int
}

func publishFlake(ctx context.Context, image string) (*flake, error) {
	system, err := exec.CommandContext(ctx, "docker", "run", "--rm", image, "nix", "--extra-experimental-features", "nix-command",
		"eval", "--impure", "--raw", "--expr", "builtins.currentSystem").Output()
	if err != nil {
		return nil, err
	}
	root, err := os.MkdirTemp("", "iglu-bench-git-")
	if err != nil {
		return nil, err
	}
	f := &flake{folder: filepath.Join(root, "flake")}
	if err := os.MkdirAll(filepath.Join(f.folder, "leaves"), 0o755); err != nil {
		return nil, err
	}
	for n := range leaves {
		if err := f.writeLeaf(n, "as it was"); err != nil {
			return nil, err
		}
	}
	text := strings.Replace(manyDerivations, "%s", string(system), 1)
	if err := os.WriteFile(filepath.Join(f.folder, "flake.nix"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	if err := gitserver.Git(f.folder, "init", "--quiet", "--initial-branch=main"); err != nil {
		return nil, err
	}
	if err := f.commit(); err != nil {
		return nil, err
	}
	f.url, f.stop, err = gitserver.Serve(&gitserver.Server{Root: root})
	f.url += "/flake"
	return f, err
}

func (f *flake) writeLeaf(n int, text string) error {
	return os.WriteFile(filepath.Join(f.folder, "leaves", fmt.Sprintf("leaf-%03d", n)), []byte(text), 0o644)
}

func (f *flake) commit() error {
	if err := gitserver.Git(f.folder, "add", "."); err != nil {
		return err
	}
	return gitserver.Git(f.folder, "commit", "--quiet", "--message=leaves")
}

// change changes one leaf.
func (f *flake) change() error {
	f.changes++
	if err := f.writeLeaf(f.changes%leaves, fmt.Sprint("changed ", f.changes)); err != nil {
		return err
	}
	return f.commit()
}

// build returns a script that builds the flake as a job does.
func (f *flake) build() string {
	return "rm -rf /source && git clone --quiet --depth=1 " + f.url + " /source && cd /source && " +
		"nix --extra-experimental-features 'nix-command flakes' build"
}

func (f *flake) close() {
	f.stop()
	os.RemoveAll(filepath.Dir(f.folder))
}
