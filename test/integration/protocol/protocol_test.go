//go:build integration

package protocol

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// TestMessages checks each row of the protocol's table of messages on a running server, in both wire formats. Rows
// that need several messages from the client have their own tests below.
func TestMessages(t *testing.T) {
	fixture.InFormats(t, func(t *testing.T, format schemas.Format) {
		for _, row := range messageRows(t, format) {
			t.Run(row.name, func(t *testing.T) { row.check(t, format) })
		}
	})
}

type messageRow struct {
	name      string
	kind      int
	send      string
	want      []string // in the document's format
	closeCode int
}

func (row messageRow) check(t *testing.T, format schemas.Format) {
	c := fixture.ConnectIn(t, format, fixture.Env.Server)
	if row.want[0] == notJSON { // it is in neither format
		c.Format = schemas.Document
	}
	if err := c.Conn.WriteMessage(row.kind, []byte(row.send)); err != nil {
		t.Fatal(err)
	}
	var got []string
	message, code := c.Read()
	for ; code == 0; message, code = c.Read() {
		if !strings.HasPrefix(message, `{"stdout":"iglu: job `) && !strings.HasPrefix(message, `{"stdout":"iglu: Nix `) { // WithoutHead checks those
			got = append(got, message)
		}
	}
	if row.want[0] == notJSON && len(got) == 1 && strings.HasPrefix(got[0], notJSON) {
		got = row.want
	}
	if row.name == "standard error" { // lines of two streams have no order
		slices.Sort(got)
		slices.Sort(row.want)
	}
	if diff := cmp.Diff(row.want, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	if code != row.closeCode {
		t.Errorf("close code %d, want %d", code, row.closeCode)
	}
}

// notJSON is the beginning of the answer to a message that is not JSON. Its msg has the position of the error.
const notJSON = `{"error":"Not a valid JSON","msg":"`

func messageRows(t *testing.T, format schemas.Format) []messageRow {
	// Differences between the formats, apart from the names in a job.
	object, options, repository, noClone := "git", "buildOptions", "git.repository", "noClone"
	if format == schemas.Stack {
		object, options, repository, noClone = "git_config", "build_options", "git_config.repository", "noclone"
	}
	run := func(line string) string { return fixture.JobText(t, format, fixture.Command(line)) }
	invalid := func(msg string) string {
		return fmt.Sprintf(`{"error":"JSON schema is not valid.","msg":%q,"jobStatus":"failed"}`, msg)
	}
	missing := options + ": is missing"
	if format == schemas.Stack {
		missing += "; cachix_config: is missing"
	}
	return []messageRow{
		{"not JSON", websocket.TextMessage, `{"` + object + `":`, []string{notJSON}, 1007},
		{"empty", websocket.TextMessage, ``, []string{notJSON}, 1007},
		{"two documents", websocket.TextMessage, `{} {}`, []string{notJSON}, 1007},
		{"a name twice", websocket.TextMessage, `{"` + object + `":{"` + noClone + `":true,"` + noClone + `":true}}`, []string{notJSON}, 1007},
		{"invalid UTF-8", websocket.TextMessage, "{\"" + object + "\":\"\xff\"}", []string{notJSON}, 1007},
		{"not text", websocket.BinaryMessage, run("nix"), []string{notJSON}, 1007},
		{"schema", websocket.TextMessage, `{"` + object + `":{"` + noClone + `":true}}`, []string{invalid(missing)}, 1007},
		{"rule", websocket.TextMessage, fixture.JobText(t, format, fixture.Build("", "nix")),
			[]string{invalid(repository + ": is required when " + noClone + " is false")}, 1007},
		{"command", websocket.TextMessage, run(`make all`),
			[]string{`{"error":"Invalid command: 'make all'","msg":"` + options + `.command: its first word must be one of: ` +
				`nix, nix-build, sh, seq, env, sleep, printf, no-such-program",` +
				`"buildExitCode":2,"childExitCode":2,"jobStatus":"failed"}`}, 1007},
		{"output and success", websocket.TextMessage, run(`sh -c 'echo "<one>"; echo; echo two'`),
			[]string{fixture.Accepted, `{"stdout":"iglu: running sh -c 'echo \"<one>\"; echo; echo two'","jobStatus":"running"}`,
				`{"stdout":"<one>","jobStatus":"running"}`, `{"stdout":"","jobStatus":"running"}`,
				`{"stdout":"two","jobStatus":"running"}`, fixture.Succeeded}, 1000},
		{"standard error", websocket.TextMessage, run(`sh -c 'exec >&2; echo one; printf two'`),
			[]string{fixture.Accepted, `{"stdout":"iglu: running sh -c 'exec >&2; echo one; printf two'","jobStatus":"running"}`,
				`{"stdout":"one","jobStatus":"running"}`, `{"stdout":"two","jobStatus":"running"}`, fixture.Succeeded}, 1000},
		{"exit code", websocket.TextMessage, run(`sh -c 'exit 42'`),
			[]string{fixture.Accepted, `{"stdout":"iglu: running sh -c 'exit 42'","jobStatus":"running"}`,
				`{"stdout":"iglu: failed: ` + exited42 + `","jobStatus":"running"}`, fixture.ExitedBecause(42, exited42)}, 1011},
		{"no such program", websocket.TextMessage, run(`no-such-program`),
			[]string{fixture.Accepted, `{"stdout":"iglu: running no-such-program","jobStatus":"running"}`,
				`{"stdout":"iglu: no-such-program is not in the job image; its PATH is /root/.nix-profile/bin:/nix/var/nix/profiles/default/bin:/nix/var/nix/profiles/default/sbin","jobStatus":"running"}`,
				`{"stdout":"iglu: failed: ` + noProgram + `","jobStatus":"running"}`, fixture.ExitedBecause(127, noProgram)}, 1011},
	}
}

// The reasons of two failures in the last message.
const (
	exited42  = "the command ended with exit code 42. The end of its log may say more."
	noProgram = "no-such-program is not in the job image; its PATH is /root/.nix-profile/bin:/nix/var/nix/profiles/default/bin:" +
		"/nix/var/nix/profiles/default/sbin. Use a job image that has it (IGLU_JOB_IMAGE)."
)

func TestSecondClient(t *testing.T) {
	first := fixture.Connect(t, fixture.Env.Server)
	second := fixture.Connect(t, fixture.Env.Server)
	if got := second.Finish(); len(got.Messages) != 1 || got.Messages[0] != fixture.Busy || got.CloseCode != 1011 {
		t.Errorf("a second client got %+v", got)
	}
	// The refused client has no effect: the first client still has the slot.
	first.Send(`{"git":{"noClone":true},"buildOptions":{"command":"nix --version","cachix":{"push":false}}}`)
	fixture.WantExit(t, first.Finish(), 0)
}

// TestClientVanishes breaks a client's connection in the middle of a build, without a close message. Its container is
// removed, and another client is accepted.
func TestClientVanishes(t *testing.T) {
	t.Run("alone", func(t *testing.T) { clientVanishes(t, fixture.Env.Server) })
	t.Run("on engines", func(t *testing.T) {
		fixture.OnEngines(t, func(t *testing.T, e *fixture.Engine) { clientVanishes(t, e.Server(t, func(*server.Settings) {})) })
	})
}

func clientVanishes(t *testing.T, s *fixture.Server) {
	for _, ignoresTerm := range []string{"", "trap '' TERM; "} {
		c := fixture.Connect(t, s)
		c.Send(`{"git":{"noClone":true},"buildOptions":{"command":"sh -c \"` + ignoresTerm +
			`echo begun; while :; do sleep 1; done\"","cachix":{"push":false}}}`)
		c.WaitFor(`"begun"`)
		if n := len(s.Containers()); n != 1 {
			t.Fatalf("%d containers while a job runs", n)
		}
		c.Conn.NetConn().Close()
		fixture.WantFree(t, s)
		fixture.WantNoContainers(t, s)
	}
}

// TestNoEngine runs a builder without an engine.
func TestNoEngine(t *testing.T) {
	fixture.InFormats(t, func(t *testing.T, format schemas.Format) {
		s := fixture.ServerWith(t, func(s *server.Settings) { s.EngineHost = "unix:///nonexistent/docker.sock" })
		begun := time.Now()
		got := fixture.DoIn(t, format, s, fixture.Command("nix --version"))
		want := []string{fixture.Accepted, `{"error":"The container engine does not answer.","msg":"Start it, or set DOCKER_HOST to where it listens.","jobStatus":"failed"}`}
		if diff := cmp.Diff(want, got.Messages); diff != "" || got.CloseCode != 1011 {
			t.Errorf("close code %d, messages (-want +got):\n%s", got.CloseCode, diff)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("the answer took %s", took)
		}
		if status, body := s.Get(t, "GET", "/api/v1/healthcheck"); status != 503 || !strings.HasSuffix(body, ".\n") {
			t.Errorf("health check: %d %q", status, body)
		}
	})
}

func TestNoImage(t *testing.T) {
	fixture.InFormats(t, func(t *testing.T, format schemas.Format) {
		s := fixture.ServerWith(t, func(s *server.Settings) { s.JobImage = "127.0.0.1:1/not/there:1" })
		got := fixture.DoIn(t, format, s, fixture.Command("nix --version"))
		if len(got.Messages) != 2 || got.CloseCode != 1011 ||
			!strings.Contains(got.Messages[1], `"error":"The job image 127.0.0.1:1/not/there:1 is not on the engine and cannot be pulled: `) ||
			!strings.Contains(got.Messages[1], "IGLU_JOB_IMAGE") {
			t.Errorf("got %+v", got)
		}
		fixture.WantLine(t, got, "iglu: pulling 127.0.0.1:1/not/there:1")
	})
}

// TestShutdown stops the server while a job runs. The client gets a message, and nothing of the job is left, which
// ServerWith checks.
func TestShutdown(t *testing.T) {
	fixture.InFormats(t, func(t *testing.T, format schemas.Format) {
		s := fixture.ServerWith(t, func(*server.Settings) {})
		c := fixture.ConnectIn(t, format, s)
		c.SendJob(fixture.Command(`sh -c 'echo begun; sleep 1000'`))
		c.WaitFor(`"begun"`)
		s.Cancel()
		got := c.Finish()
		want := `{"error":"The job was cancelled.","msg":"The builder is shutting down. Send the job again when it is back.","jobStatus":"failed"}`
		if diff := cmp.Diff([]string{want}, got.Messages); diff != "" || got.CloseCode != 1011 {
			t.Errorf("close code %d, messages (-want +got):\n%s", got.CloseCode, diff)
		}
		fixture.WantEnd(t, s, "shutdown")
	})

	waiting := fixture.ServerWith(t, func(*server.Settings) {})
	idle := fixture.Connect(t, waiting)
	waiting.Cancel()
	if got := idle.Finish(); len(got.Messages) != 1 || !strings.Contains(got.Messages[0], "shutting down") {
		t.Errorf("a client without a job got %+v", got)
	}
}

// TestTerminate sends SIGTERM to a container: the build gets it, and its exit code
// is the job's.
func TestTerminate(t *testing.T) { fixture.OnEngines(t, terminate) }

func terminate(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(*server.Settings) {})
	fixture.InFormats(t, func(t *testing.T, format schemas.Format) {
		c := fixture.ConnectIn(t, format, s)
		c.SendJob(fixture.Command(`sh -c "trap 'echo told; exit 7' TERM; echo begun; while :; do sleep 0.1; done"`))
		c.WaitFor(`"begun"`)
		for _, id := range s.Containers() {
			e.Docker(t, "kill", "--signal=TERM", id)
		}
		got := c.Finish()
		fixture.WantLine(t, got, "told")
		if len(got.Messages) != 1 || !fixture.IsExit(got.Messages[0], 7) {
			t.Errorf("got %v", got.Messages)
		}
	})
}

// TestOrphans runs a job that leaves many orphaned processes. None becomes a zombie.
func TestOrphans(t *testing.T) { fixture.OnEngines(t, orphans) }

func orphans(t *testing.T, e *fixture.Engine) {
	script := `i=0; while [ $i -lt 100 ]; do (sh -c 'sleep 0.1' &) ; i=$((i+1)); done; sleep 1; ` +
		`z=0; for s in /proc/[0-9]*/stat; do read -r line < $s || continue; case "$line" in *") Z "*) z=$((z+1));; esac; done; echo zombies $z`
	j := fixture.Command("")
	j.BuildOptions.Command = "sh -c '" + strings.ReplaceAll(script, "'", `'\''`) + "'"
	got := fixture.Do(t, e.Server(t, func(*server.Settings) {}), j)
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "zombies 0")
}

// TestNoNetwork runs a builder with a jobs' network that does not exist.
func TestNoNetwork(t *testing.T) { fixture.OnEngines(t, noNetwork) }

func noNetwork(t *testing.T, e *fixture.Engine) {
	fixture.InFormats(t, func(t *testing.T, format schemas.Format) {
		s := e.Server(t, func(s *server.Settings) { s.JobNetwork = "iglu-no-such-network" })
		got := fixture.DoIn(t, format, s, fixture.Command("nix --version"))
		want := []string{fixture.Accepted, `{"error":"The network iglu-no-such-network is not on the container engine.","msg":"` +
			`Make it there, or set IGLU_JOB_NETWORK to one that is, or to nothing for one of the builder's own.","jobStatus":"failed"}`}
		if diff := cmp.Diff(want, got.Messages); diff != "" {
			t.Errorf("messages (-want +got):\n%s", diff)
		}
	})
}
