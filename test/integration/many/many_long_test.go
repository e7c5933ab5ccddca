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

	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/fixture"
)

// An outcome is the result of a job for its client.
type outcome struct {
	last  schemas.Response
	lines []string
	err   error // why there is no result: the builder has crashed, or is busy
}

var errBusy = errors.New("the builder is busy")

// send sends a job as an ordinary client does. If vanishes is not 0, it disconnects after that time without
// closing the WebSocket. After each line, saw is called with all lines so far.
func send(address string, job []byte, vanishes time.Duration, saw func(lines []string)) (o outcome) {
	conn, _, err := websocket.DefaultDialer.Dial("ws://"+address+"/api/v1/build", nil)
	if err != nil {
		return outcome{err: err}
	}
	defer conn.Close()
	if vanishes > 0 {
		conn.SetReadDeadline(time.Now().Add(vanishes))
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
			saw(o.lines)
		case r.JobStatus == schemas.Success || r.JobStatus == schemas.Failed:
			o.last = r
		}
	}
}

// wantCode checks that a job has ended with an exit code, or with a message that contains one of some texts.
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

// A life is one run of a builder that is killed and started again.
type life struct {
	address string
	over    chan struct{} // closed when the next run has started
}

// TestKilledBeside kills a builder while another builder of its instance has a job. The other builder removes
// what is left within two minutes, which is mostly time for the containers to end. Its own job keeps running.
func TestKilledBeside(t *testing.T) { fixture.OnEngines(t, killedBeside) }

func killedBeside(t *testing.T, e *fixture.Engine) {
	name := instance()
	first, doomed := start(t, e, name, fixture.Env.Image), start(t, e, name, fixture.Env.Image)
	ended := begin(t, first, fixture.Build(repository(t), "sh -c '"+waits+"'")).InBackground() // reads on: a client that does not read is dropped
	begin(t, doomed, fixture.Build(repository(t), "sh -c 'echo begun; sleep 1000'"))
	doomed.Kill()
	if err := fixture.AwaitEngine(e.Host, 2*time.Minute, func() bool { return len(first.Containers()) == 1 }); err != nil {
		t.Errorf("left of the killed builder: %v, %v", first.Containers(), err)
	}
	goOn(t, e, first)
	wantEnd(t, <-ended, 3)
	stop(t, first)
}

// TestManyJobs sends 200 jobs of 20 repositories from 16 clients to a builder with 8 slots. Clients disconnect,
// containers are killed, and the builder is killed and started again meanwhile. Every verdict is right, no store
// has two jobs at a time, and nothing is left.
func TestManyJobs(t *testing.T) {
	e := fixture.DockerEngine()
	name, folder := instance(), t.TempDir()
	flags := []string{"--job-image", imageWithAlone(t, e), "--allowed-commands", "sh,alone", "--max-jobs", "8", "--max-queued", "200", "--job-memory", "1GiB", "--store-wait", "10m"}
	var repositories []string
	for range 20 {
		repositories = append(repositories, repository(t))
	}
	var current atomic.Pointer[life]
	s := fixture.StartProcessIn(t, name, folder, "", flags...)
	current.Store(&life{s.Address, make(chan struct{})})

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
				case 1: // a process in the container cannot kill PID 1
					script, or = "echo please kill; sleep 1000", []string{"ended from outside"}
					killed.Add(1)
				}
				text := []byte(fixture.JSONOf(t, fixture.Build(repositories[rand.IntN(20)], alone(script))))
				for {
					now := current.Load()
					o := send(now.address, text, vanishes, killWhoPleads)
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
					lost.Add(1)
					await.Receive(t, now.over, fmt.Sprintf("the builder is back that lost a job: %v", o.err))
				}
			}
		})
	}
	for n := range 200 {
		jobs <- n
		if n == 100 {
			s.Kill()
			s = fixture.StartProcessIn(t, name, folder, "", flags...)
			close(current.Swap(&life{s.Address, make(chan struct{})}).over)
		}
	}
	close(jobs)
	clients.Wait()
	t.Logf("%d clients disconnected, %d lost their builder, %d jobs asked to be killed", vanished.Load(), lost.Load(), killed.Load())
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

// killWhoPleads kills the container of a job if its output asks for it.
func killWhoPleads(lines []string) {
	if lines[len(lines)-1] != "please kill" {
		return
	}
	_, job, _ := strings.Cut(lines[0], "iglu: job ")
	job, _, _ = strings.Cut(job, " ")
	if id, err := docker("container", "ls", "--quiet", "--filter", "label="+engine.LabelJob+"="+job); err == nil {
		docker("kill", strings.TrimSpace(id))
	}
}

// docker runs the docker command, which may fail.
func docker(args ...string) (output string, err error) {
	text, err := exec.Command("docker", args...).Output()
	return string(text), err
}

// TestBuildersAtRandom runs five builders of one instance on one engine. Each is stopped by SIGTERM or SIGKILL
// after a random number of jobs and started again, ten times. No job is lost except those of a stopped builder,
// and nothing is left.
func TestBuildersAtRandom(t *testing.T) {
	e := fixture.DockerEngine()
	name, image := instance(), imageWithAlone(t, e)
	var urls []string
	for range 4 {
		urls = append(urls, repository(t))
	}
	var builders sync.WaitGroup
	var done, lost, starts atomic.Int64
	for range 5 {
		folder := t.TempDir()
		builders.Go(func() {
			for range 10 {
				s := fixture.StartProcessIn(t, name, folder, "", "--job-image", image, "--allowed-commands", "sh,alone", "--max-jobs", "2",
					"--job-memory", "1GiB", "--shutdown-grace", "5s", "--store-wait", "10m")
				starts.Add(1)
				lives := 2 + rand.IntN(9) // for so many jobs
				ended := make(chan struct{}, 100)
				var dead atomic.Bool
				var jobs sync.WaitGroup
				for range 2 {
					jobs.Go(func() {
						for !dead.Load() {
							code := 3 + rand.IntN(50)
							script := fmt.Sprintf("sleep %d; exit %d", 1+rand.IntN(8), code)
							o := send(s.Address, []byte(fixture.JSONOf(t, fixture.Build(urls[rand.IntN(len(urls))], alone(script)))), 0, func([]string) {})
							if o.err != nil {
								lost.Add(1)
								if !dead.Load() && !errors.Is(o.err, errBusy) {
									t.Errorf("a job of a running builder is lost: %v", o.err)
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
							ended <- struct{}{}
						}
					})
				}
				for range lives {
					// The store of a builder that was killed is free after a minute, and others may get it first, and be killed.
					await.ReceiveWithin(t, 10*time.Minute, ended, "a job ends")
				}
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
		t.Error("too few jobs for a meaningful test")
	}
	last := start(t, e, name, image)
	if err := last.AwaitNoContainers(2 * time.Minute); err != nil {
		t.Errorf("left after two minutes: %v", last.Containers())
	}
}
