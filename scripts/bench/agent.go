package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"iglu.sh/builder/scripts/internal/server"
)

const (
	agentNoopRounds = 15
	agentLogRounds  = 11
)

// benchAgent compares a builder that uses the engine through an agent with one that uses the engine's socket.
func benchAgent(ctx context.Context, image string, table *strings.Builder) error {
	a, err := startAgent()
	if err != nil {
		return err
	}
	defer a.stop()
	allCPUs := []string{"--job-cpus", strconv.Itoa(runtime.NumCPU())}
	local, err := startBuilder(image, allCPUs...)
	if err != nil {
		return err
	}
	defer local.stop()
	through, err := startBuilderOn("tcp://"+a.address, image, append(allCPUs, "--agent-keys", a.keys("server"))...)
	if err != nil {
		return err
	}
	defer through.stop()
	settled := func() error { return through.settle(ctx) }

	const ofLocal, ofAgent = "local", "agent"
	noops, err := local.race(ctx, agentNoopRounds, []contender{
		{ofLocal, settled, local.runs(noop)},
		{ofAgent, settled, through.runs(noop)},
	})
	if err != nil {
		return err
	}
	perMillion := make(figures)
	printing := func(name string, b *builder) contender {
		return contender{name, settled, func(ctx context.Context) error {
			m := arrivals{jobs: 1}
			if err := m.build(ctx, b); err != nil {
				return err
			}
			took, err := m.perMillion()
			perMillion.add(name, took)
			return err
		}}
	}
	if _, err := local.race(ctx, agentLogRounds, []contender{printing(ofLocal, local), printing(ofAgent, through)}); err != nil {
		return err
	}
	memory, err := memoryOf(a.process.Process.Pid, "RssAnon")
	if err != nil {
		return err
	}
	table.WriteString("| medians | through an agent | with the socket | ratio | required |\n|---|---|---|---|---|\n")
	fmt.Fprintf(table, "| `nix --version`, %d rounds | %.2f s | %.2f s | %.2f | at most 1.6 |\n", agentNoopRounds,
		noops[ofAgent].Seconds(), noops[ofLocal].Seconds(), noops[ofAgent].Seconds()/noops[ofLocal].Seconds())
	// The ratio is computed for each round, because the machine is equally busy for both within a round.
	var ratios []float64
	for round, took := range perMillion[ofAgent][1:] {
		ratios = append(ratios, perMillion[ofLocal][1+round].Seconds()/took.Seconds())
	}
	slices.Sort(ratios)
	rate := func(name string) float64 { return 1e6 / perMillion.median(name).Seconds() }
	fmt.Fprintf(table, "| lines a second of a job that prints, %d rounds | %.0f | %.0f | %.2f | at least 0.7 |\n", agentLogRounds,
		rate(ofAgent), rate(ofLocal), ratios[len(ratios)/2])
	fmt.Fprintf(table, "| memory of the agent after that | %.1f MiB | | | at most 15 MiB |\n", memory)
	return nil
}

// An agent is an agent process that passes connections on to the engine's socket.
type agent struct {
	address string
	folder  string // the folder with the keys
	process *exec.Cmd
}

var agentListens = regexp.MustCompile(`msg=listening addr=(\S+)`)

func startAgent() (*agent, error) {
	folder, err := os.MkdirTemp("", "iglu-bench-agent-")
	if err != nil {
		return nil, err
	}
	a := &agent{folder: folder}
	if err := a.start(); err != nil {
		os.RemoveAll(folder)
		return nil, err
	}
	return a, nil
}

func (a *agent) start() error {
	if err := exec.Command(server.Program, "agent", "keys", a.folder).Run(); err != nil {
		return err
	}
	a.process = exec.Command(server.Program, "agent", "--listen", "127.0.0.1:0", "--agent-keys", a.keys("agent"))
	a.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C must reach only the script
	log, err := a.process.StderrPipe()
	if err == nil {
		err = a.process.Start()
	}
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if m := agentListens.FindStringSubmatch(lines.Text()); m != nil {
			a.address = m[1]
			go io.Copy(io.Discard, log)
			return nil
		}
	}
	return fmt.Errorf("agent does not start: %w", a.process.Wait())
}

// keys returns the folder with the keys of a side, agent or server.
func (a *agent) keys(side string) string { return filepath.Join(a.folder, side) }

// stop kills the agent and removes its keys.
func (a *agent) stop() {
	a.process.Process.Signal(syscall.SIGKILL)
	a.process.Wait()
	os.RemoveAll(a.folder)
}
