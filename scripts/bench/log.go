package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"iglu.sh/builder/schemas"
)

const (
	logRounds = 5
	logLines  = 1_000_000
	lineBytes = 77 // without the line ending
	// bigLog is the size of the big log, in bytes.
	bigLog     = 1_000_000_000
	stallTime  = 30 * time.Second
	stallAfter = 100_000 // lines
	// delayLines is the number of single lines whose delay is measured.
	delayLines = 200
)

var (
	text    = strings.Repeat("0123456789 ", 7)
	million = printing(logLines)
)

// printing returns a script that prints a number of lines of lineBytes.
func printing(lines int) string { return fmt.Sprintf("yes %q | head -n %d", text, lines) }

// benchLog measures the transfer of a log from a container to a client.
func benchLog(ctx context.Context, image string, table *strings.Builder) error {
	s, err := startBuilder(image)
	if err != nil {
		return err
	}
	defer s.stop()
	if _, err := s.build(ctx, shell("true"), nil); err != nil { // makes what exists once for all jobs
		return err
	}
	idle, err := s.memory("VmRSS")
	if err != nil {
		return err
	}
	if err := millionLines(ctx, s, image, table); err != nil {
		return err
	}
	if err := singleLines(ctx, s, table); err != nil {
		return err
	}
	if err := stalledClient(ctx, s, table); err != nil {
		return err
	}
	peak, err := s.memory("VmHWM")
	fmt.Fprintf(table, "| memory of the server, idle after a job | %.0f MiB | |\n", idle)
	fmt.Fprintf(table, "| memory of the server, at its peak in all of this | %.0f MiB | |\n", peak)
	return err
}

// millionLines measures how long a million lines take to a client of the builder, and to docker run.
func millionLines(ctx context.Context, s *builder, image string, table *strings.Builder) error {
	const (
		plain   = "iglu-builder, no secrets"
		secrets = "iglu-builder, 10 secrets"
		docker  = "docker run --rm"
		none    = "docker run --rm --log-driver none"
	)
	used := make(figures)
	medians, err := s.race(ctx, logRounds, []contender{
		{plain, nil, used.processor(plain, s.PID(), s.printsMillion(shell(million)))},
		{docker, nil, dockerRuns("run", "--rm", image, "sh", "-c", million)},
		{secrets, nil, used.processor(secrets, s.PID(), s.printsMillion(withSecrets(shell(million))))},
		{none, nil, dockerRuns("run", "--rm", "--log-driver", "none", image, "sh", "-c", million)},
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(table, "| %d lines of %d characters, container start included | median of %d | against docker run --rm | against --log-driver none | processor time of the server |\n|---|---|---|---|---|\n",
		logLines, lineBytes, logRounds)
	for _, name := range []string{plain, secrets, docker, none} {
		processor := ""
		if len(used[name]) > 0 {
			processor = fmt.Sprintf("%.2f s ", used.median(name).Seconds())
		}
		fmt.Fprintf(table, "| %s | %.2f s | %.2f | %.2f | %s|\n", name, medians[name].Seconds(),
			medians[name].Seconds()/medians[docker].Seconds(), medians[name].Seconds()/medians[none].Seconds(), processor)
	}
	table.WriteString("\n| | | |\n|---|---|---|\n")
	return nil
}

// printsMillion returns a contender's function that runs a job of a million lines. It fails if not all lines arrive.
func (b *builder) printsMillion(job schemas.Request) func(context.Context) error {
	return func(ctx context.Context) error {
		messages, err := b.build(ctx, job, nil)
		if err == nil && messages < logLines {
			err = fmt.Errorf("only %d messages", messages)
		}
		return err
	}
}

// withSecrets adds ten secrets to a job: a key of eight lines, and two others.
func withSecrets(job schemas.Request) schemas.Request {
	var key []string
	for range 8 {
		key = append(key, secret(48))
	}
	job.Git.GitKey = strings.Join(key, "\n")
	job.BuildOptions.Cachix.APIKey, job.BuildOptions.Cachix.SigningKey = secret(27), secret(64)
	return job
}

func secret(bytes int) string {
	random := make([]byte, bytes)
	rand.Read(random)
	return base64.StdEncoding.EncodeToString(random)
}

// singleLines measures the delay of single lines, ten per second, from just before they are printed until they arrive.
func singleLines(ctx context.Context, s *builder, table *strings.Builder) error {
	script := fmt.Sprintf("i=0; while [ $i -lt %d ]; do date +%%s%%N; sleep 0.1; i=$((i+1)); done", delayLines)
	var delays []time.Duration
	_, err := s.build(ctx, withSecrets(shell(script)), func(message []byte) {
		if printed, err := strconv.ParseInt(line(message), 10, 64); err == nil {
			delays = append(delays, time.Since(time.Unix(0, printed)))
		}
	})
	if err != nil {
		return err
	}
	if len(delays) != delayLines {
		return fmt.Errorf("%d of %d lines arrived", len(delays), delayLines)
	}
	fmt.Fprintf(table, "| delay of a single line, ten a second | p50 %.1f ms | p99 %.1f ms |\n",
		float64(quantile(delays, 0.5))/1e6, float64(quantile(delays, 0.99))/1e6)
	return nil
}

// stalledClient measures how long a job takes to write a big log: with a client that keeps reading, and with one that
// stops reading for a while.
func stalledClient(ctx context.Context, s *builder, table *strings.Builder) error {
	script := fmt.Sprintf("date +%%s%%N; yes %q | head -c %d; echo; date +%%s%%N", text, bigLog)
	build := func(stall time.Duration) (took time.Duration, err error) {
		var stamps []int64
		messages := 0
		_, err = s.build(ctx, withSecrets(shell(script)), func(message []byte) {
			if messages++; messages == stallAfter {
				time.Sleep(stall)
			}
			if len(message) < 100 { // not one of the log's long lines
				if stamp, err := strconv.ParseInt(line(message), 10, 64); err == nil {
					stamps = append(stamps, stamp)
				}
			}
		})
		if err != nil {
			return 0, err
		}
		if lines := bigLog / (lineBytes + 1); messages < lines || len(stamps) != 2 {
			return 0, fmt.Errorf("%d messages of at least %d, %d times", messages, lines, len(stamps))
		}
		return time.Duration(stamps[1] - stamps[0]), nil
	}
	var fast, stalled []time.Duration
	for range 3 {
		for _, way := range []struct {
			stall time.Duration
			times *[]time.Duration
		}{{0, &fast}, {stallTime, &stalled}} {
			took, err := build(way.stall)
			if err != nil {
				return err
			}
			*way.times = append(*way.times, took)
		}
	}
	a, b := quantile(fast, 0.5), quantile(stalled, 0.5)
	fmt.Fprintf(table, "| a job that prints 1 GB, median of 3, client reads on | %.2f s | |\n", a.Seconds())
	fmt.Fprintf(table, "| the same, client stops reading for %s | %.2f s | %.2f × |\n", stallTime, b.Seconds(), b.Seconds()/a.Seconds())
	return nil
}
