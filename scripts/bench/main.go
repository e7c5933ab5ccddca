// Bench compares the builder with what people would use instead, in one run on one machine, and writes the tables in
// docs/benchmarks.md: all of them, or those given as arguments. 'make bench' runs it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	image := os.Getenv("IGLU_BENCH_JOB_IMAGE")
	if image == "" {
		return errors.New("IGLU_BENCH_JOB_IMAGE is not set: run 'make bench'")
	}
	parts := []struct {
		name string
		run  func(ctx context.Context, image string, table *strings.Builder) error
	}{
		{"start", benchStart},
		{"parallel", benchParallel},
		{"fill", benchFill},
		{"source", benchSource},
		{"log", benchLog},
		{"watch", benchWatch},
		{"many", benchMany},
		{"agent", benchAgent},
		{"push", benchPush},
		{"outputs", benchOutputs},
	}
	for _, part := range parts {
		if len(os.Args) > 1 && !slices.Contains(os.Args[1:], part.name) {
			continue
		}
		var table strings.Builder
		if err := part.run(ctx, image, &table); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		fmt.Print(table.String())
		if err := replaceTable("docs/benchmarks.md", part.name, table.String()); err != nil {
			return err
		}
	}
	return nil
}

// replaceTable replaces the table between two marks in a file.
func replaceTable(name, mark, table string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	marks := regexp.MustCompile(`(?s)(<!-- ` + mark + ` -->\n).*?(<!-- end -->)`)
	if !marks.Match(text) {
		return fmt.Errorf("%s has no marks for the table %q", name, mark)
	}
	return os.WriteFile(name, marks.ReplaceAll(text, []byte("${1}\n"+strings.ReplaceAll(table, "$", "$$")+"\n${2}")), 0o644)
}

// A contender is one way to do what is measured.
type contender struct {
	name   string
	before func() error // runs before each measurement; may be nil
	run    func(context.Context) error
}

// dockerRuns returns a contender's function that runs the docker command.
func dockerRuns(arguments ...string) func(context.Context) error {
	return func(ctx context.Context) error { return exec.CommandContext(ctx, "docker", arguments...).Run() }
}

// figures are measurements of contenders besides their times: one figure per round, by name.
type figures map[string][]time.Duration

// add adds the figure of a round.
func (f figures) add(name string, figure time.Duration) { f[name] = append(f[name], figure) }

// median returns the median of all rounds except the first, which race does not count either.
func (f figures) median(name string) time.Duration { return quantile(f[name][1:], 0.5) }

// processor returns a function that calls run and adds the processor time that a process uses meanwhile.
func (f figures) processor(name string, pid int, run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		before, err := processorTime(pid)
		if err != nil {
			return err
		}
		if err := run(ctx); err != nil {
			return err
		}
		after, err := processorTime(pid)
		f.add(name, after-before)
		return err
	}
}

// quantile returns the value below which a part of the list lies.
func quantile(list []time.Duration, part float64) time.Duration {
	slices.Sort(list)
	return list[min(len(list)-1, int(part*float64(len(list))))]
}
