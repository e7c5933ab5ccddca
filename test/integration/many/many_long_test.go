//go:build integration && long

package many

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// An outcome is what a client is told of its job.
type outcome struct {
	last  schemas.Response
	lines []string
	err   error // why it was told nothing: the builder was gone, or busy
}

var errBusy = errors.New("the builder is busy")

// send sends a job as an ordinary client does. It leaves without a word after a while, if that is not 0.
func send(address string, job []byte, vanishes time.Duration) (o outcome) {
	conn, _, err := websocket.DefaultDialer.Dial("ws://"+address+"/api/v1/build", nil)
	if err != nil {
		return outcome{err: err}
	}
	defer conn.Close()
	if vanishes > 0 {
		time.AfterFunc(vanishes, func() { conn.NetConn().Close() })
	}
	if err := conn.WriteMessage(websocket.TextMessage, job); err != nil {
		return outcome{err: err}
	}
	for {
		var r schemas.Response
		err := conn.ReadJSON(&r)
		switch {
		case err != nil && o.last.JobStatus != "":
			return o
		case err != nil:
			return outcome{err: err}
		case r.Error == "A build job is already running.":
			return outcome{err: errBusy}
		case r.Stdout != nil:
			o.lines = append(o.lines, *r.Stdout)
		case r.JobStatus == schemas.Success || r.JobStatus == schemas.Failed:
			o.last = r
		}
	}
}

// wantCode checks that a job has ended with an exit code, or in one of some other ways.
func (o outcome) wantCode(code int, or ...string) error {
	text := o.last.Error + " " + o.last.Msg
	if o.last.BuildExitCode != nil && *o.last.BuildExitCode == code && !strings.Contains(text, "ended from outside") {
		return nil
	}
	for _, other := range or {
		if strings.Contains(text, other) {
			return nil
		}
	}
	return fmt.Errorf("want exit code %d, got %s\n%s", code, o.last.Encode(), strings.Join(o.lines, "\n"))
}

// TestManyJobs has 16 clients send 200 jobs of 20 repositories to a builder with 8 slots. Clients
// vanish, containers are killed, and the builder is killed and started again in between. Every verdict
// is right, no store has two jobs at once, and nothing is left.
func TestManyJobs(t *testing.T) {
	e := fixture.DockerEngine()
	name, folder := instance(), t.TempDir()
	flags := []string{"--job-image", imageWithAlone(t, e), "--allowed-commands", "sh,alone", "--max-jobs", "8", "--job-memory", "1GiB", "--store-wait", "10m"}
	var repositories []string
	for range 20 {
		repositories = append(repositories, repository(t))
	}
	var address atomic.Pointer[string]
	s := fixture.StartProcessIn(t, name, folder, "", flags...)
	address.Store(&s.Address)

	jobs := make(chan int)
	var clients sync.WaitGroup
	var vanished, lost, killed atomic.Int64
	for range 16 {
		clients.Go(func() {
			for n := range jobs {
				code := 3 + n%5
				script, vanishes, or := fmt.Sprintf("sleep 0.%d; exit %d", n%10, code), time.Duration(0), []string{}
				switch n % 10 {
				case 0:
					script, vanishes = "sleep 1000", time.Duration(1+n%7)*time.Second
				case 1: // PID 1 can be killed by nobody in the container
					script, or = "echo please kill; sleep 1000", []string{"ended from outside"}
					killed.Add(1)
				}
				text := []byte(fixture.JSONOf(t, fixture.Build(repositories[rand.IntN(20)], alone(script))))
				for {
					o := send(*address.Load(), text, vanishes)
					if vanishes > 0 {
						vanished.Add(1)
						break
					}
					if o.err == nil {
						if err := o.wantCode(code, or...); err != nil {
							t.Errorf("job %d: %v", n, err)
						}
						break
					}
					if !errors.Is(o.err, errBusy) {
						lost.Add(1)
					}
					time.Sleep(200 * time.Millisecond)
				}
			}
		})
	}
	stop := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() { killPleaders(s, stop) })
	for n := range 200 {
		jobs <- n
		if n == 100 {
			s.Kill()
			s = fixture.StartProcessIn(t, name, folder, "", flags...)
			address.Store(&s.Address)
		}
	}
	close(jobs)
	clients.Wait()
	close(stop)
	killer.Wait()
	t.Logf("%d clients vanished, %d were lost with the builder, %d containers were to be killed", vanished.Load(), lost.Load(), killed.Load())
	if err := s.AwaitNoContainers(2 * time.Minute); err != nil {
		t.Error(err)
	}
	s.Cancel()
	if err := <-s.Ended; err != nil {
		t.Error(err)
	}
	s.Ended <- nil // for the clean-up
	if output := cleanUp(t, e, name); strings.Contains(output, "hint") {
		t.Errorf("cleanup says %s", output)
	}
	for _, kind := range []string{"container", "network"} {
		if left := s.OnEngine(kind); len(left) > 0 {
			t.Errorf("left: %s %v", kind, left)
		}
	}
}

// killPleaders kills containers whose job is to be killed, until stop is closed. Which they are, their
// command says.
func killPleaders(s *fixture.Server, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Second):
		}
		for _, id := range s.Containers() {
			env, err := docker("inspect", "--format", "{{.Config.Env}}", id)
			if err == nil && strings.Contains(env, "please kill") {
				if top, err := docker("top", id); err == nil && strings.Contains(top, "sleep 1000") {
					docker("kill", id)
				}
			}
		}
	}
}

// docker runs Docker's command, which may fail.
func docker(args ...string) (output string, err error) {
	text, err := exec.Command("docker", args...).Output()
	return string(text), err
}

// TestBuildersAtRandom has five builders of one instance on one engine, each with jobs, be started and
// stopped at random for five minutes, by SIGTERM and SIGKILL: no job ends that was not its own
// builder's, and nothing is left.
func TestBuildersAtRandom(t *testing.T) {
	e := fixture.DockerEngine()
	name, image := instance(), imageWithAlone(t, e)
	var urls []string
	for range 4 {
		urls = append(urls, repository(t))
	}
	end := time.Now().Add(5 * time.Minute)
	var builders sync.WaitGroup
	var done, lost, starts atomic.Int64
	for range 5 {
		folder := t.TempDir()
		builders.Go(func() {
			for time.Now().Before(end) {
				s := fixture.StartProcessIn(t, name, folder, "", "--job-image", image, "--allowed-commands", "sh,alone", "--max-jobs", "2",
					"--job-memory", "1GiB", "--shutdown-grace", "5s", "--store-wait", "10m")
				starts.Add(1)
				life := time.Duration(10+rand.IntN(30)) * time.Second
				var dead atomic.Bool
				var jobs sync.WaitGroup
				for range 2 {
					jobs.Go(func() {
						for !dead.Load() {
							code := 3 + rand.IntN(50)
							script := fmt.Sprintf("sleep %d; exit %d", 1+rand.IntN(8), code)
							o := send(s.Address, []byte(fixture.JSONOf(t, fixture.Build(urls[rand.IntN(len(urls))], alone(script)))), 0)
							if o.err != nil {
								lost.Add(1)
								if !dead.Load() && !errors.Is(o.err, errBusy) {
									t.Errorf("a job of a builder that lives is lost: %v", o.err)
								}
								return
							}
							ownEnd := []string{}
							if dead.Load() {
								ownEnd = append(ownEnd, "The builder is shutting down.")
							}
							if err := o.wantCode(code, ownEnd...); err != nil {
								t.Error(err)
							}
							done.Add(1)
						}
					})
				}
				time.Sleep(life)
				dead.Store(true)
				if rand.IntN(2) == 0 {
					s.Kill()
				} else {
					s.Cancel()
					if err := <-s.Ended; err != nil && !errors.Is(err, io.EOF) {
						t.Error(err)
					}
					s.Ended <- nil // for the clean-up
				}
				jobs.Wait()
			}
		})
	}
	builders.Wait()
	t.Logf("%d builders were started, %d jobs have ended, %d were lost with their builder", starts.Load(), done.Load(), lost.Load())
	if done.Load() < 50 {
		t.Error("that is too little to show something")
	}
	last := start(t, e, name, image)
	if err := last.AwaitNoContainers(2 * time.Minute); err != nil {
		t.Errorf("left after two minutes: %v", last.Containers())
	}
}
