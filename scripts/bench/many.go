package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"iglu.sh/builder/internal/history"
)

const (
	noopRounds  = 9
	noopJobs    = 16
	noopClients = 4

	printRounds = 5
	printJobs   = 4
	// printLines is how many lines each of them prints. It is large enough that all print at the same time for most of
	// the time, although their containers do not start at the same moment.
	printLines = 2_000_000

	processorRounds = 5

	// stalledJobs is how many clients read nothing while each job prints bigLog bytes.
	stalledJobs = 8
)

// benchMany measures a builder with several jobs at a time, and the resources that the server itself uses.
func benchMany(ctx context.Context, image string, table *strings.Builder) error {
	table.WriteString("| medians | iglu-builder | in its place | ratio | required |\n|---|---|---|---|---|\n")
	for _, measure := range []func(ctx context.Context, image string, table *strings.Builder) error{
		noopsAtOnce, logsAtOnce, processorShare, stalledClients,
	} {
		if err := measure(ctx, image, table); err != nil {
			return err
		}
	}
	return nil
}

// noopsAtOnce measures jobs that do nothing, several at a time. Each job may use all CPUs, like a container of docker
// run.
func noopsAtOnce(ctx context.Context, image string, table *strings.Builder) error {
	s, err := startBuilder(image, "--store", "ephemeral", "--max-jobs", strconv.Itoa(noopClients), "--job-cpus", strconv.Itoa(runtime.NumCPU()))
	if err != nil {
		return err
	}
	defer s.stop()
	all := func(run func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error { return atOnce(ctx, noopClients, noopJobs, run) }
	}
	network, err := bridge(ctx)
	if err != nil {
		return err
	}
	defer exec.Command("docker", "network", "rm", network).Run()
	const jobs, docker, onBridge = "jobs", "docker run", "docker run on a bridge of its own"
	medians, err := s.race(ctx, noopRounds, []contender{
		{jobs, nil, all(s.runs(noop))},
		{docker, nil, all(dockerRuns("run", "--rm", image, "nix", "--version"))},
		{onBridge, nil, all(dockerRuns("run", "--rm", "--network", network, image, "nix", "--version"))},
	})
	if err != nil {
		return err
	}
	ours := medians[jobs].Seconds()
	fmt.Fprintf(table, "| %d jobs of `nix --version`, %d at a time, against `docker run --rm`, %d rounds | %.2f s | %.2f s | %.2f | at most 1.05 |\n",
		noopJobs, noopClients, noopRounds, ours, medians[docker].Seconds(), ours/medians[docker].Seconds())
	fmt.Fprintf(table, "| the same jobs, against `docker run --rm --network` with a bridge of its own, as jobs have | %.2f s | %.2f s | %.2f | |\n",
		ours, medians[onBridge].Seconds(), ours/medians[onBridge].Seconds())
	return nil
}

// bridge makes a network such as that of a builder's jobs, and returns its name. A container on it starts
// more slowly than one on the engine's default bridge, because the engine starts a name server for it.
func bridge(ctx context.Context) (name string, err error) {
	name = "iglu-bench-" + strconv.Itoa(os.Getpid())
	if out, err := exec.CommandContext(ctx, "docker", "network", "create", name).CombinedOutput(); err != nil {
		return "", fmt.Errorf("docker network create: %w: %s", err, out)
	}
	return name, nil
}

// atOnce runs a function a number of times in total, from several clients in parallel. A client stops after its first
// error. atOnce returns when all clients are done.
func atOnce(ctx context.Context, clients, times int, run func(context.Context) error) error {
	var begun atomic.Int64
	var working sync.WaitGroup
	failed := make([]error, clients)
	for client := range clients {
		working.Go(func() {
			for failed[client] == nil && begun.Add(1) <= int64(times) {
				failed[client] = run(ctx)
			}
		})
	}
	working.Wait()
	return errors.Join(failed...)
}

// logsAtOnce measures how many lines per second arrive at the clients of jobs that print in parallel, and at the client of
// a single job. Each job may use all CPUs: with its usual share, the single job would be slower than the machine.
func logsAtOnce(ctx context.Context, image string, table *strings.Builder) error {
	s, err := startBuilder(image, "--store", "ephemeral", "--max-jobs", strconv.Itoa(printJobs), "--job-cpus", strconv.Itoa(runtime.NumCPU()))
	if err != nil {
		return err
	}
	defer s.stop()
	perMillion := make(figures)
	printing := func(name string, jobs int) contender {
		return contender{name, nil, func(ctx context.Context) error {
			m := arrivals{jobs: jobs}
			err := atOnce(ctx, jobs, jobs, func(ctx context.Context) error { return m.build(ctx, s) })
			if err != nil {
				return err
			}
			took, err := m.perMillion()
			perMillion.add(name, took)
			return err
		}}
	}
	const alone, together = "alone", "together"
	if _, err := s.race(ctx, printRounds, []contender{printing(alone, 1), printing(together, printJobs)}); err != nil {
		return err
	}
	rate := func(name string) float64 { return 1e6 / perMillion.median(name).Seconds() }
	fmt.Fprintf(table, "| lines a second of %d jobs that print at once, together, against one alone, %d rounds | %.0f | %.0f | %.2f | at least 0.9 |\n",
		printJobs, printRounds, rate(together), rate(alone), rate(together)/rate(alone))
	return nil
}

// arrivals counts the lines that arrive at the clients of jobs, from the moment when the last job begins to print until
// the first job's lines have all arrived. This way the start and the end of containers do not count.
type arrivals struct {
	jobs  int
	lines atomic.Int64 // of all jobs, added in steps

	mu           sync.Mutex
	printing     int       // jobs that have begun to print
	begun, ended time.Time // the time in which all jobs printed
	before       int64     // lines at begun
	after        int64     // lines at ended
}

// arrivalStep is the number of lines that a client adds to the counter at a time. Clients that update a shared counter
// for every line slow each other down.
const arrivalStep = 1000

// printedLine is the beginning of the message of each line of a script from printing.
var printedLine = []byte(`{"stdout":"` + text[:10])

// build runs one of the jobs, and counts its lines.
func (a *arrivals) build(ctx context.Context, s *builder) error {
	lines := 0
	_, err := s.build(ctx, shell(printing(printLines)), func(message []byte) {
		if !bytes.HasPrefix(message, printedLine) {
			return
		}
		if lines++; lines%arrivalStep == 0 {
			a.lines.Add(arrivalStep)
		}
		switch lines {
		case 1:
			a.begin()
		case printLines:
			a.end()
		}
	})
	if err == nil && lines != printLines {
		err = fmt.Errorf("%d of %d lines arrived", lines, printLines)
	}
	return err
}

// begin records that a job has begun to print.
func (a *arrivals) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.printing++; a.printing == a.jobs && a.ended.IsZero() {
		a.begun, a.before = time.Now(), a.lines.Load()
	}
}

// end records that all lines of a job have arrived.
func (a *arrivals) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended.IsZero() {
		a.ended, a.after = time.Now(), a.lines.Load()
	}
}

// perMillion returns how long a million lines took to arrive. It fails if there was no moment at
// which all jobs printed.
func (a *arrivals) perMillion() (time.Duration, error) {
	if a.begun.IsZero() || a.after <= a.before {
		return 0, fmt.Errorf("%d jobs did not all print at the same time: one ended before another began", a.jobs)
	}
	return time.Duration(float64(a.ended.Sub(a.begun)) * 1e6 / float64(a.after-a.before)), nil
}

// processorShare measures the processor time of the server for a job that prints a million lines
// and has ten secrets, and that of dockerd for the same job.
func processorShare(ctx context.Context, image string, table *strings.Builder) error {
	s, err := startBuilder(image, "--store", "ephemeral")
	if err != nil {
		return err
	}
	defer s.stop()
	const ours, theirs = "server", "dockerd"
	took := make(figures)
	run := took.processor(ours, s.PID(), s.printsMillion(withSecrets(shell(million))))
	dockerd, isKnown := dockerdPID(ctx)
	if isKnown {
		run = took.processor(theirs, dockerd, run)
	}
	if _, err := s.race(ctx, processorRounds, []contender{{"job", nil, run}}); err != nil {
		return err
	}
	server := took.median(ours).Seconds()
	fmt.Fprintf(table, "| processor time of the server for %d lines and 10 secrets, against dockerd's for the same job, %d rounds | %.2f s | ",
		logLines, processorRounds, server)
	if isKnown {
		engine := took.median(theirs).Seconds()
		fmt.Fprintf(table, "%.2f s | %.2f | at most 1.2 |\n", engine, server/engine)
	} else {
		table.WriteString("not measured | | at most 1.2 |\n")
	}
	return nil
}

// dockerdPID returns the process id of the engine. It is unknown if the engine is on another machine, is not dockerd, or
// has its pid file in another folder than its socket.
func dockerdPID(ctx context.Context) (pid int, isKnown bool) {
	host, err := exec.CommandContext(ctx, "docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}").Output()
	socket, isLocal := strings.CutPrefix(strings.TrimSpace(string(host)), "unix://")
	if err != nil || !isLocal {
		return 0, false
	}
	text, err := os.ReadFile(strings.TrimSuffix(socket, ".sock") + ".pid")
	if err != nil {
		return 0, false
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
		return 0, false
	}
	program, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	return pid, err == nil && string(program) == "dockerd\n"
}

// stalledClients measures the server's memory after jobs have printed big logs and their clients have read nothing.
func stalledClients(ctx context.Context, image string, table *strings.Builder) error {
	folder, err := diskFolder((stalledJobs + 1) * bigLog)
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	jobs := strconv.Itoa(stalledJobs)
	s, err := startBuilder(image, "--store", "ephemeral", "--max-jobs", jobs, "--state-dir", folder, "--keep-logs", jobs, "--client-timeout", "1h")
	if err != nil {
		return err
	}
	defer s.stop()
	var ids []string
	for range stalledJobs {
		conn, id, err := s.stall(ctx, shell(fmt.Sprintf("yes %q | head -c %d", text, bigLog)))
		if err != nil {
			return err
		}
		defer conn.Close() // it stays open, and nobody reads from it, until all is measured
		ids = append(ids, id)
	}
	for _, id := range ids {
		record, err := s.awaitEnd(ctx, id)
		if err != nil {
			return err
		}
		if !record.Succeeded() || record.Lines < bigLog/(lineBytes+1) {
			return fmt.Errorf("a job whose client stalled has ended as %q after %d lines: %s", record.End, record.Lines, record.Error)
		}
	}
	peak, err := s.memory("VmHWM")
	fmt.Fprintf(table, "| memory of the server at its peak: %d jobs print 1 GB each, their clients read nothing | %.0f MiB | | | at most 128 MiB |\n",
		stalledJobs, peak)
	return err
}

// tmpfsMagic is the type of a file system in memory, see statfs(2).
const tmpfsMagic = 0x01021994

// diskFolder makes a folder on a disk with at least room free bytes: in the folder for temporary files, or in /var/tmp if
// that folder is in memory or too small.
func diskFolder(room uint64) (string, error) {
	for _, parent := range []string{os.TempDir(), "/var/tmp"} {
		var system syscall.Statfs_t
		if syscall.Statfs(parent, &system) == nil && int64(system.Type) != tmpfsMagic && uint64(system.Bavail)*uint64(system.Bsize) >= room {
			return os.MkdirTemp(parent, "iglu-bench-many-")
		}
	}
	return "", fmt.Errorf("no room for %d bytes of logs: set TMPDIR to a folder on a disk that has it", room)
}

// awaitEnd waits until a job has ended, and returns its record.
func (b *builder) awaitEnd(ctx context.Context, job string) (record history.Record, err error) {
	// The answer ends with the job. Without lines, the server reads no log for it.
	events, err := b.get(ctx, "/api/v1/jobs/"+job+"/events?lines=no")
	if err != nil {
		return record, err
	}
	defer events.Close()
	if _, err := io.Copy(io.Discard, events); err != nil {
		return record, err
	}
	err = b.getJSON(ctx, "/api/v1/jobs/"+job, &record)
	return record, err
}
