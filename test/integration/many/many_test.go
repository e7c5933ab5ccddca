//go:build integration

package many

import (
	"crypto/rand"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/test/kit/fixture"
)

// repository makes a repository, and returns its URL.
func repository(t *testing.T) string {
	t.Helper()
	name := "many-" + strings.ToLower(rand.Text()[:10])
	if err := fixture.Env.Git.Commit(name, "main", map[string]string{"file": name}); err != nil {
		t.Fatal(err)
	}
	return fixture.Env.Git.Public + "/" + name
}

// alone returns a command that runs a script, but exits with 99 if another such job uses the same store. It
// needs the image of imageWithAlone.
func alone(script string) string {
	return fmt.Sprintf(`alone %s/lock sh -c '%s'`, jobenv.StoreCache, script)
}

// imageWithAlone returns the name of a job image with the program alone.
func imageWithAlone(t *testing.T, e *fixture.Engine) string {
	t.Helper()
	return e.With(t, fixture.BuildProgram(t, "alone"), "alone")
}

func instance() string { return "test-many-" + strings.ToLower(rand.Text()[:10]) }

// start starts a builder in a separate process with a new state folder.
func start(t *testing.T, e *fixture.Engine, instance, image string, flags ...string) *fixture.Server {
	t.Helper()
	return e.Process(t, instance, append([]string{"--job-image", image, "--allowed-commands", "sh,alone"}, flags...)...)
}

// begin sends a job, and waits until it has printed "begun".
func begin(t *testing.T, s *fixture.Server, j fixture.Job) *fixture.Client {
	t.Helper()
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, j))
	c.WaitFor(`"begun"`)
	return c
}

func hasLine(r fixture.Result, text string) bool {
	return slices.ContainsFunc(r.Lines, func(line string) bool { return strings.Contains(line, text) })
}

// goOn ends the wait of jobs that run the script waits.
func goOn(t *testing.T, e *fixture.Engine, s *fixture.Server) {
	t.Helper()
	for _, id := range s.Containers() {
		command := exec.Command("docker", "exec", id, "touch", "/tmp/go-on")
		command.Env = e.Environ()
		command.Run() // may fail, because a job that does not wait may have ended
	}
}

// wantEnd checks the last message of a job. Its first message was read before.
func wantEnd(t *testing.T, r fixture.Result, code int) {
	t.Helper()
	if len(r.Messages) != 1 || !fixture.IsExit(r.Messages[0], code) {
		t.Errorf("got %q, want exit code %d; lines:\n%s", r.Messages, code, strings.Join(r.Lines, "\n"))
	}
}

// waits is a script that waits until goOn is called.
const waits = "echo begun; while [ ! -e /tmp/go-on ]; do sleep 0.1; done; exit 3"

// TestSlots sends as many jobs as there are slots, two of them with the same repository. One more job is
// refused.
func TestSlots(t *testing.T) { fixture.OnEngines(t, slots) }

func slots(t *testing.T, e *fixture.Engine) {
	s := start(t, e, instance(), imageWithAlone(t, e), "--max-jobs", "3", "--job-memory", "3GiB")
	url := repository(t)
	first := begin(t, s, fixture.Build(url, alone(waits)))
	second := fixture.Connect(t, s)
	second.Send(fixture.JSONOf(t, fixture.Build(url, alone("echo alone"))))
	second.WaitFor("another job has this job's Nix store: waiting for it")
	third := begin(t, s, fixture.Build(repository(t), alone(waits)))
	fourth := fixture.Connect(t, s)
	if got := fourth.Next(); got != fixture.Busy {
		t.Errorf("a client without a slot got %s", got)
	}
	fixture.WantNumbers(t, fixture.Scrape(t, s, ""), "iglu_builder_jobs_running 3", "iglu_builder_jobs_max 3")
	if n := len(s.Containers()); n != 2 {
		t.Errorf("there are %d containers", n)
	}
	goOn(t, e, s)
	wantEnd(t, first.Finish(), 3)
	wantEnd(t, third.Finish(), 3)
	got := second.Finish()
	wantEnd(t, got, 0)
	fixture.WantLine(t, got, "alone")
	if hasLine(got, "begins with the image's own Nix store") {
		t.Errorf("the second job of the repository had another store: %q", got.Lines)
	}
}

// TestStoreWait sends a job that waits for a store until a time-out. It then uses the store in the image.
func TestStoreWait(t *testing.T) {
	e := fixture.DockerEngine()
	s := start(t, e, instance(), fixture.Env.Image, "--max-jobs", "2", "--store-wait", "2s")
	url := repository(t)
	first := begin(t, s, fixture.Build(url, "sh -c '"+waits+"'"))
	got := fixture.Do(t, s, fixture.Build(url, `sh -c 'echo "[$XDG_CACHE_HOME]"'`))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "iglu: other jobs have had this job's Nix store for 2s: this job begins with the image's own store, which is removed with the job")
	fixture.WantLine(t, got, "[]")
	goOn(t, e, s)
	wantEnd(t, first.Finish(), 3)
}

// TestSideBySide runs two builders of one instance on one engine. They share a store. The start of one does not affect the
// other's job.
func TestSideBySide(t *testing.T) { fixture.OnEngines(t, sideBySide) }

func sideBySide(t *testing.T, e *fixture.Engine) {
	name, image := instance(), imageWithAlone(t, e)
	url := repository(t)
	first := start(t, e, name, image)
	job := begin(t, first, fixture.Build(url, alone(waits)))
	second := start(t, e, name, image)
	waiting := fixture.Connect(t, second)
	waiting.Send(fixture.JSONOf(t, fixture.Build(url, alone("echo alone"))))
	waiting.WaitFor("a job of another builder has this job's Nix store: waiting for it")
	if output := cleanUp(t, e, name); !strings.Contains(output, "containers of jobs are running") {
		t.Errorf("cleanup says %q", output)
	}
	goOn(t, e, first)
	wantEnd(t, job.Finish(), 3)
	got := waiting.Finish()
	wantEnd(t, got, 0)
	fixture.WantLine(t, got, "alone")
	stop(t, first, second)
}

// TestStopBeside stops a builder during a job. That does not affect the job of another builder of its instance.
func TestStopBeside(t *testing.T) { fixture.OnEngines(t, stopBeside) }

func stopBeside(t *testing.T, e *fixture.Engine) {
	name := instance()
	first, second := start(t, e, name, fixture.Env.Image), start(t, e, name, fixture.Env.Image)
	ended := begin(t, first, fixture.Command("sh -c '"+waits+"'")).InBackground()    // reads on: a client that does not read is dropped
	begin(t, second, fixture.Build(repository(t), "sh -c 'echo begun; sleep 1000'")) // in a store of its own
	second.Cancel()
	if err := second.Log.Await(time.Minute, func(text string) bool { return strings.Contains(text, "accepting no more jobs") }); err != nil {
		t.Error(err) // two signals at once can be one
	}
	stop(t, second) // sends the second signal, which ends the job
	goOn(t, e, first)
	wantEnd(t, <-ended, 3)
	stop(t, first)
}

// stop stops builders that share an instance. Until all are stopped, maintenance containers may run.
func stop(t *testing.T, servers ...*fixture.Server) {
	t.Helper()
	for _, s := range servers {
		s.Cancel()
		if err := <-s.Ended; err != nil {
			t.Error(err)
		}
		s.Ended <- nil // for the clean-up
	}
}

// cleanUp runs the command cleanup and returns its output.
func cleanUp(t *testing.T, e *fixture.Engine, instance string) string {
	t.Helper()
	command := exec.Command(fixture.Env.Program, "cleanup", "--instance", instance)
	command.Env = e.Environ()
	output, err := command.CombinedOutput()
	if err != nil && len(output) == 0 {
		t.Error(err)
	}
	return string(output)
}

// TestSharedState runs builders of one instance with one state folder. Each has its own history.
func TestSharedState(t *testing.T) {
	name, folder := instance(), t.TempDir()
	var all []*fixture.Server
	for range 3 {
		all = append(all, fixture.StartProcessIn(t, name, folder, "", "--job-image", fixture.Env.Image, "--allowed-commands", "sh"))
	}
	var jobs sync.WaitGroup
	for n, s := range all {
		jobs.Go(func() {
			fixture.WantExit(t, fixture.Do(t, s, fixture.Command(fmt.Sprintf("sh -c 'exit %d'", n+3))), n+3)
		})
	}
	jobs.Wait()
	for n, s := range all {
		if _, body := s.Get(t, "GET", "/api/v1/jobs"); strings.Count(body, `"id":`) != 1 || !strings.Contains(body, fmt.Sprintf(`"exitCode":%d`, n+3)) {
			t.Errorf("builder %d has the history %s", n, body)
		}
	}
	stop(t, all...)
}

// TestDockerStop runs a builder in a container, and stops the container during an endless job, as Iglu's
// scheduler and docker-compose do, with 10 s until it is killed. The client gets a message, and nothing is left.
func TestDockerStop(t *testing.T) {
	e := fixture.DockerEngine()
	name := instance()
	builder := strings.TrimSpace(e.Docker(t, "run", "--detach", "--network", "host",
		"--volume", fixture.Env.Program+":/iglu-builder:ro", "--volume", e.Socket()+":/var/run/docker.sock", "--entrypoint", "/iglu-builder", fixture.Env.Image,
		"serve", "--instance", name, "--listen", "127.0.0.1:0", "--job-image", fixture.Env.Image, "--allowed-commands", "sh", "--shutdown-grace", "1h"))
	t.Cleanup(func() { e.Docker(t, "rm", "--force", "--volumes", builder) })
	s := &fixture.Server{Instance: name, Host: e.Host}
	t.Cleanup(func() { fixture.RemoveAll(e.Host, name) })
	if err := e.Follow(t, builder).Await(time.Minute, func(text string) bool {
		_, rest, ok := strings.Cut(text, "msg=listening addr=")
		s.Address, _, _ = strings.Cut(rest, " ")
		return ok
	}); err != nil {
		t.Fatal(err)
	}
	c := begin(t, s, fixture.Command(`sh -c 'trap "" TERM; echo begun; while :; do sleep 1; done'`))
	result := c.InBackground()
	e.Docker(t, "stop", builder)
	if left := s.Containers(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	got := <-result
	if len(got.Messages) != 1 || !strings.Contains(got.Messages[0], "The builder is shutting down.") {
		t.Errorf("the client got %q", got.Messages)
	}
	if code := strings.TrimSpace(e.Docker(t, "inspect", "--format", "{{.State.ExitCode}}", builder)); code != "0" {
		t.Errorf("the builder has ended with %s: %s", code, e.Docker(t, "logs", builder))
	}
}
