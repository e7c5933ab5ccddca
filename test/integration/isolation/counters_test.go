//go:build integration

package isolation

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/test/kit/fixture"
)

// TestHostCounters runs a job that opens all inotify instances that its user may have. The kernel counts them
// per user, for the whole machine. The machine's users still have theirs, unless a container runs with the
// user id of one of them.
func TestHostCounters(t *testing.T) {
	fixture.OnEngines(t, func(t *testing.T, e *fixture.Engine) {
		program := filepath.Join(t.TempDir(), "attack")
		if err := os.WriteFile(program, fixture.BuildProgram(t, "attack"), 0o755); err != nil {
			t.Fatal(err)
		}
		// Users of the machine: an ordinary user, and root. They differ by engine, because the engines' tests run at
		// the same time on one machine.
		somebody := uint32(31234)
		if e.IsPodman() {
			somebody++
		}
		makeOne := func(uid uint32) (succeeded bool) {
			command := exec.Command(program, "inotify")
			command.Dir = "/"
			command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
			return command.Run() == nil
		}
		if err := os.Chmod(filepath.Dir(program), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(filepath.Dir(program)), 0o755); err != nil {
			t.Fatal(err)
		}
		s := fixture.Attacker(t, e, func(s *server.Settings) { s.JobUser = orchestrator.UserNix })
		c := fixture.Connect(t, s)
		defer c.Conn.Close()
		c.Send(fixture.JSONOf(t, fixture.Command("attack inotify-hog")))
		c.WaitFor("inotify-hog: took")
		for _, uid := range []uint32{0, 1000, somebody} {
			if !makeOne(uid) {
				t.Errorf("the user %d of the machine has no inotify instance left", uid)
			}
		}
		weak := e.Docker(t, "run", "--detach", "--user", fmt.Sprint(somebody), e.AttackImage(t), "attack", "inotify-hog")
		e.CleanUp(t, "rm", "--force", weak)
		if err := e.Follow(t, weak).Await(time.Minute, func(text string) bool { return strings.Contains(text, "inotify-hog: took") }); err != nil {
			t.Fatal(err)
		}
		if makeOne(somebody) {
			t.Error("a container with the same user id does not use up the instances")
		}
	})
}
