package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

const (
	watchRounds = 5
	watchers    = 50
	watchLines  = 100_000
)

// watchedScript prints as a build does, in bursts.
const watchedScript = `for i in $(seq 0 99); do seq -f "line %.0f" $((i*1000+1)) $((i*1000+1000)); sleep 0.05; done`

// benchWatch measures how much many watchers slow down a job.
func benchWatch(ctx context.Context, image string, table *strings.Builder) error {
	s, err := startBuilder(image)
	if err != nil {
		return err
	}
	defer s.stop()
	var audience audience
	const alone, watched = "nobody", "50 watchers"
	medians, err := s.race(ctx, watchRounds, []contender{
		{alone, audience.leave, func(ctx context.Context) error {
			_, err := s.build(ctx, shell(watchedScript), nil)
			return err
		}},
		{watched, nil, func(ctx context.Context) error {
			come := sync.OnceFunc(func() { audience.come(ctx, s) })
			_, err := s.build(ctx, shell(watchedScript), func(message []byte) {
				if line(message) == "line 1" { // the job is in the history by then
					come()
				}
			})
			return err
		}},
	})
	if err := errors.Join(err, audience.leave()); err != nil {
		return err
	}
	peak, err := s.memory("VmHWM")
	ratio := medians[watched].Seconds() / medians[alone].Seconds()
	fmt.Fprintf(table, "| %d lines, watched by | median of %d | |\n|---|---|---|\n", watchLines, watchRounds)
	fmt.Fprintf(table, "| %s | %.2f s | |\n", alone, medians[alone].Seconds())
	fmt.Fprintf(table, "| %s | %.2f s | %.2f × |\n", watched, medians[watched].Seconds(), ratio)
	fmt.Fprintf(table, "| memory of the server, at its peak | %.0f MiB | |\n", peak)
	return err
}

// An audience is a set of clients that watch one job.
type audience struct {
	watching sync.WaitGroup
	mu       sync.Mutex
	failed   error
}

// come starts clients that watch the job that began last.
func (a *audience) come(ctx context.Context, s *builder) {
	job, err := s.newestJob(ctx)
	a.fail(err)
	for range watchers {
		a.watching.Go(func() { a.fail(s.watch(ctx, job)) })
	}
}

func (a *audience) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed = errors.Join(a.failed, err)
}

// leave waits until all clients have received the end, and returns their errors.
func (a *audience) leave() error {
	a.watching.Wait()
	return a.failed
}

func (b *builder) newestJob(ctx context.Context) (string, error) {
	var answer struct {
		Jobs []struct{ ID string }
	}
	if err := b.getJSON(ctx, "/api/v1/jobs?limit=1", &answer); err != nil || len(answer.Jobs) == 0 {
		return "", fmt.Errorf("no job is running: %w", err)
	}
	return answer.Jobs[0].ID, nil
}

// watch receives all of a job's messages. It does not parse them, so that it does not affect the measurement.
func (b *builder) watch(ctx context.Context, job string) error {
	body, err := b.get(ctx, "/api/v1/jobs/"+job+"/events")
	if err != nil {
		return err
	}
	defer body.Close()
	var messages lineCounter
	if _, err := io.Copy(&messages, body); err != nil {
		return err
	}
	if messages /= 3; messages < watchLines { // a message has three lines: an id, the data, and an empty line
		return fmt.Errorf("a watcher has received only %d messages", messages)
	}
	return nil
}

// getJSON decodes the answer to a request of the API.
func (b *builder) getJSON(ctx context.Context, path string, into any) error {
	body, err := b.get(ctx, path)
	if err != nil {
		return err
	}
	defer body.Close()
	return json.NewDecoder(body).Decode(into)
}

// get returns the answer to a request of the API. The caller closes it.
func (b *builder) get(ctx context.Context, path string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.Address+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, fmt.Errorf("%s: %s", path, response.Status)
	}
	return response.Body, nil
}

// lineCounter counts the lines that are written to it.
type lineCounter int

func (c *lineCounter) Write(p []byte) (int, error) {
	*c += lineCounter(bytes.Count(p, []byte{'\n'}))
	return len(p), nil
}
