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

// TestHostCounters has a job take all inotify instances that its user can have. The kernel counts
// them by users, for the whole machine: users of the machine have theirs all the same, unless a
// container runs as one of them.
func TestHostCounters(t *testing.T) {
	fixture.OnEngines(t, func(t *testing.T, e *fixture.Engine) {
		program := filepath.Join(t.TempDir(), "attack")
		if err := os.WriteFile(program, fixture.BuildProgram(t, "attack"), 0o755); err != nil {
			t.Fatal(err)
		}
		// As whom somebody of the machine would be: an ordinary user, and root. The engines' tests run
		// at the same time, on one machine.
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
			t.Error("a container of the same user takes none")
		}
	})
}
