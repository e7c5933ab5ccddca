package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/buildclient"
	"iglu.sh/builder/schemas"
)

// TestMessages holds the message table of the protocol against a running server, a
// row each, in both forms. Rows that need more than one message from the client come below.
func TestMessages(t *testing.T) {
	inForms(t, func(t *testing.T, form schemas.Form) {
		for _, row := range messageRows(t, form) {
			t.Run(row.name, func(t *testing.T) { row.check(t, form) })
		}
	})
}

type messageRow struct {
	name      string
	kind      int
	send      string
	want      []string // as the document has them
	closeCode int
}

func (row messageRow) check(t *testing.T, form schemas.Form) {
	c := connectIn(t, form, world.server)
	if row.want[0] == notJSON { // which has no form
		c.form = schemas.Document
	}
	if err := c.conn.WriteMessage(row.kind, []byte(row.send)); err != nil {
		t.Fatal(err)
	}
	var got []string
	message, code := c.read()
	for ; code == 0; message, code = c.read() {
		if !strings.Contains(message, waitingLine) && !strings.HasPrefix(message, `{"stdout":"iglu: job image `) && !strings.HasPrefix(message, `{"stdout":"iglu: Nix `) { // withoutHead checks those
			got = append(got, message)
		}
	}
	if row.name == "standard error" { // between two streams there is no order
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

const notJSON = `{"error":"Not a valid JSON","jobStatus":"failed"}`

func messageRows(t *testing.T, form schemas.Form) []messageRow {
	// What differs between the forms beside a job's spelling.
	object, options, repository, noClone := "git", "buildOptions", "git.repository", "noClone"
	if form == schemas.Stack {
		object, options, repository, noClone = "git_config", "build_options", "git_config.repository", "noclone"
	}
	run := func(line string) string { return jobText(t, form, command(line)) }
	invalid := func(msg string) string {
		return fmt.Sprintf(`{"error":"JSON schema is not valid.","msg":%q,"jobStatus":"failed"}`, msg)
	}
	return []messageRow{
		{"not JSON", websocket.TextMessage, `{"` + object + `":`, []string{notJSON}, 1007},
		{"empty", websocket.TextMessage, ``, []string{notJSON}, 1007},
		{"two documents", websocket.TextMessage, `{} {}`, []string{notJSON}, 1007},
		{"a name twice", websocket.TextMessage, `{"` + object + `":{"` + noClone + `":true,"` + noClone + `":true}}`, []string{notJSON}, 1007},
		{"invalid UTF-8", websocket.TextMessage, "{\"" + object + "\":\"\xff\"}", []string{notJSON}, 1007},
		{"not text", websocket.BinaryMessage, run("nix"), []string{notJSON}, 1007},
		{"schema", websocket.TextMessage, `{"` + object + `":{"` + noClone + `":true}}`, []string{invalid(options + ": is missing")}, 1007},
		{"rule", websocket.TextMessage, jobText(t, form, build("", "nix")),
			[]string{invalid(repository + ": is required when " + noClone + " is false")}, 1007},
		{"command", websocket.TextMessage, run(`make all`),
			[]string{`{"error":"Invalid command: 'make all'","msg":"` + options + `.command: its first word must be one of: ` +
				`nix, nix-build, sh, seq, env, sleep, printf, no-such-program",` +
				`"buildExitCode":2,"childExitCode":2,"jobStatus":"failed"}`}, 1007},
		{"output and success", websocket.TextMessage, run(`sh -c 'echo "<one>"; echo; echo two'`),
			[]string{accepted, `{"stdout":"iglu: running sh -c 'echo \"<one>\"; echo; echo two'","jobStatus":"running"}`,
				`{"stdout":"<one>","jobStatus":"running"}`, `{"stdout":"","jobStatus":"running"}`,
				`{"stdout":"two","jobStatus":"running"}`, succeeded}, 1000},
		{"standard error", websocket.TextMessage, run(`sh -c 'exec >&2; echo one; printf two'`),
			[]string{accepted, `{"stdout":"iglu: running sh -c 'exec >&2; echo one; printf two'","jobStatus":"running"}`,
				`{"stdout":"one","jobStatus":"running"}`, `{"stdout":"two","jobStatus":"running"}`, succeeded}, 1000},
		{"exit code", websocket.TextMessage, run(`sh -c 'exit 42'`),
			[]string{accepted, `{"stdout":"iglu: running sh -c 'exit 42'","jobStatus":"running"}`, exited(42)}, 1011},
		{"no such program", websocket.TextMessage, run(`no-such-program`),
			[]string{accepted, `{"stdout":"iglu: running no-such-program","jobStatus":"running"}`,
				`{"stdout":"iglu: no-such-program is not in the job image; its PATH is /root/.nix-profile/bin:/nix/var/nix/profiles/default/bin:/nix/var/nix/profiles/default/sbin","jobStatus":"running"}`,
				exited(127)}, 1011},
	}
}

func TestSecondClient(t *testing.T) {
	first := connect(t, world.server)
	second := connect(t, world.server)
	if got := second.finish(); len(got.messages) != 1 || got.messages[0] != busy || got.closeCode != 1011 {
		t.Errorf("a second client got %+v", got)
	}
	// The refused client left no trace: the first is still the one.
	first.send(`{"git":{"noClone":true},"buildOptions":{"command":"nix --version","cachix":{"push":false}}}`)
	wantExit(t, first.finish(), 0)
}

// TestHundredClients connects a hundred clients at once: one gets in.
func TestHundredClients(t *testing.T) {
	const clients = 100
	var (
		start    = make(chan struct{})
		all      sync.WaitGroup
		mu       sync.Mutex
		admitted []*client
	)
	for range clients {
		all.Go(func() {
			<-start
			conn, _, err := websocket.DefaultDialer.Dial("ws://"+world.server.address+"/api/v1/build", nil)
			if err != nil {
				t.Error(err)
				return
			}
			c := &client{t: t, conn: conn}
			// Whoever got in is told nothing until it sends a job.
			conn.SetReadDeadline(time.Now().Add(15 * time.Second))
			_, data, err := conn.ReadMessage()
			switch {
			case err != nil:
				mu.Lock()
				defer mu.Unlock()
				admitted = append(admitted, c)
				return
			case string(data) != busy:
				t.Errorf("a client got %s", data)
			}
			if _, code := c.read(); code != 1011 {
				t.Errorf("a refused client got close code %d", code)
			}
			conn.Close()
		})
	}
	close(start)
	all.Wait()
	if len(admitted) != 1 {
		t.Errorf("%d of %d clients got in", len(admitted), clients)
	}
	for _, c := range admitted {
		c.conn.Close()
	}
	wantFree(t, world.server)
}

// wantFree checks that a server takes a job within the 5 s that it has to let go of an
// earlier client, or a few more where tests run beside others.
func wantFree(t *testing.T, s *server) {
	t.Helper()
	soon := 5 * time.Second
	if s != world.server {
		soon = time.Minute
	}
	var r result
	if err := poll(soon, func() bool {
		r = do(t, s, command("sh -c true"))
		return r.messages[0] != busy
	}); err != nil {
		t.Fatalf("no new client gets in: %v", err)
	}
	wantExit(t, r, 0)
}

func TestSecondJobOnAConnection(t *testing.T) {
	inForms(t, func(t *testing.T, form schemas.Form) {
		c := connectIn(t, form, world.server)
		c.sendJob(command(`sh -c 'echo begun; sleep 1; echo done'`))
		c.waitFor("begun")
		c.sendJob(command(`sh -c 'echo second'`))
		c.send(`anything`)
		got := c.finish()
		if diff := cmp.Diff([]string{busy, busy, succeeded}, got.messages); diff != "" {
			t.Errorf("messages (-want +got):\n%s", diff)
		}
		wantLine(t, got, "done")
	})
}

func TestNoJobInTime(t *testing.T) {
	s := serverWith(t, func(s *settings) { s.requestTimeout = 2 * time.Second })
	got := connect(t, s).finish()
	want := `{"error":"No job was received within 2s.","msg":"Connect again and send it at once.","jobStatus":"failed"}`
	if diff := cmp.Diff([]string{want}, got.messages); diff != "" || got.closeCode != websocket.ClosePolicyViolation {
		t.Errorf("close code %d, messages (-want +got):\n%s", got.closeCode, diff)
	}
	// The time is for the job as a whole: its bytes coming one by one do not help.
	trickle := connect(t, s)
	go func() {
		w, err := trickle.conn.NextWriter(websocket.TextMessage)
		for err == nil {
			_, err = w.Write(bytes.Repeat([]byte(" "), 1<<10))
			time.Sleep(20 * time.Millisecond)
		}
	}()
	if got := trickle.finish(); len(got.messages) != 1 || got.messages[0] != want {
		t.Errorf("a client that sends slowly got %+v", got)
	}
	wantFree(t, s)
}

func TestJobTooLarge(t *testing.T) {
	job := `{"git":{"noClone":true},"buildOptions":{"command":"sh -c 'true %s'","cachix":{"push":false}}}`
	for _, size := range []int{2 << 20, 20 << 20} {
		c := connect(t, world.server)
		go c.conn.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, job, strings.Repeat("x", size)))
		if got := c.finish(); len(got.messages) != 0 || got.closeCode != websocket.CloseMessageTooBig {
			t.Errorf("a job of %d bytes got %+v", size, got)
		}
	}
	c := connect(t, world.server)
	c.send(fmt.Sprintf(job, strings.Repeat("x", 100_000)))
	if got := c.finish(); got.closeCode != websocket.CloseNormalClosure {
		t.Errorf("a job of 100,000 bytes got %v, close code %d", got.messages, got.closeCode)
	}
}

// TestClientVanishes ends a client's connection without a word in the middle of a
// build. Its container goes, and another client gets in.
func TestClientVanishes(t *testing.T) {
	t.Run("alone", func(t *testing.T) { clientVanishes(t, world.server) })
	t.Run("on engines", func(t *testing.T) {
		onEngines(t, func(t *testing.T, e *site) { clientVanishes(t, e.server(t, func(*settings) {})) })
	})
}

func clientVanishes(t *testing.T, s *server) {
	for _, ignoresTerm := range []string{"", "trap '' TERM; "} {
		c := connect(t, s)
		c.send(`{"git":{"noClone":true},"buildOptions":{"command":"sh -c \"` + ignoresTerm +
			`echo begun; while :; do sleep 1; done\"","cachix":{"push":false}}}`)
		c.waitFor("begun")
		if n := len(s.containers()); n != 1 {
			t.Fatalf("%d containers while a job runs", n)
		}
		c.conn.NetConn().Close()
		if s == world.server { // beside no others: the container is gone in time, too
			if err := poll(5*time.Second, func() bool { return len(s.containers()) == 0 }); err != nil {
				t.Errorf("its container: %v", err)
			}
		}
		wantFree(t, s)
		wantNoContainers(t, s)
	}
}

func TestHealthcheck(t *testing.T) {
	const path = "/api/v1/healthcheck"
	if status, body := world.server.get(t, "GET", path); status != 200 || body != "Everyting seems healthy!" {
		t.Errorf("GET: %d %q", status, body)
	}
	for _, method := range []string{"HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		if status, body := world.server.get(t, method, path); status != 405 || (body != "Method Not Allowed\n" && method != "HEAD") {
			t.Errorf("%s: %d %q", method, status, body)
		}
	}
	if status, _ := world.server.get(t, "POST", "/api/v1/build"); status != 405 {
		t.Errorf("POST of the build endpoint: %d", status)
	}
	if status, _ := world.server.get(t, "GET", "/api/v1/build"); status != 400 {
		t.Errorf("GET of the build endpoint without an upgrade: %d", status)
	}
}

// TestNoEngine runs a builder whose engine is not there.
func TestNoEngine(t *testing.T) {
	inForms(t, func(t *testing.T, form schemas.Form) {
		s := serverWith(t, func(s *settings) { s.engineHost = "unix:///nonexistent/docker.sock" })
		begun := time.Now()
		got := doIn(t, form, s, command("nix --version"))
		want := []string{accepted, `{"error":"The container engine does not answer.","msg":"Start it, or set DOCKER_HOST to where it listens.","jobStatus":"failed"}`}
		if diff := cmp.Diff(want, got.messages); diff != "" || got.closeCode != 1011 {
			t.Errorf("close code %d, messages (-want +got):\n%s", got.closeCode, diff)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("it took %s to say so", took)
		}
		if status, body := s.get(t, "GET", "/api/v1/healthcheck"); status != 503 || !strings.HasSuffix(body, ".\n") {
			t.Errorf("health check: %d %q", status, body)
		}
	})
}

func TestNoImage(t *testing.T) {
	inForms(t, func(t *testing.T, form schemas.Form) {
		s := serverWith(t, func(s *settings) { s.jobImage = "127.0.0.1:1/not/there:1" })
		got := doIn(t, form, s, command("nix --version"))
		if len(got.messages) != 2 || got.closeCode != 1011 ||
			!strings.Contains(got.messages[1], `"error":"The job image 127.0.0.1:1/not/there:1 is not on the engine and cannot be pulled: `) ||
			!strings.Contains(got.messages[1], "IGLU_JOB_IMAGE") {
			t.Errorf("got %+v", got)
		}
		wantLine(t, got, "iglu: pulling 127.0.0.1:1/not/there:1")
	})
}

// TestShutdown stops the server while a job runs: the client is told, and nothing of
// the job is left (serverWith checks that).
func TestShutdown(t *testing.T) {
	inForms(t, func(t *testing.T, form schemas.Form) {
		s := serverWith(t, func(*settings) {})
		c := connectIn(t, form, s)
		c.sendJob(command(`sh -c 'echo begun; sleep 1000'`))
		c.waitFor("begun")
		s.cancel()
		got := c.finish()
		want := `{"error":"The job was cancelled.","msg":"The builder is shutting down. Send the job again when it is back.","jobStatus":"failed"}`
		if diff := cmp.Diff([]string{want}, got.messages); diff != "" || got.closeCode != 1011 {
			t.Errorf("close code %d, messages (-want +got):\n%s", got.closeCode, diff)
		}
		wantEnd(t, s, "shutdown")
	})

	waiting := serverWith(t, func(*settings) {})
	idle := connect(t, waiting)
	time.Sleep(time.Second) // the server waits for its job
	waiting.cancel()
	if got := idle.finish(); len(got.messages) != 1 || !strings.Contains(got.messages[0], "shutting down") {
		t.Errorf("a client without a job got %+v", got)
	}
}

// TestTerminate sends SIGTERM to a container: the build gets it, and its exit code
// is the job's.
func TestTerminate(t *testing.T) { onEngines(t, terminate) }

func terminate(t *testing.T, e *site) {
	s := e.server(t, func(*settings) {})
	inForms(t, func(t *testing.T, form schemas.Form) {
		c := connectIn(t, form, s)
		c.sendJob(command(`sh -c "trap 'echo told; exit 7' TERM; echo begun; while :; do sleep 0.1; done"`))
		c.waitFor("begun")
		for _, id := range s.containers() {
			e.docker(t, "kill", "--signal=TERM", id)
		}
		got := c.finish()
		wantLine(t, got, "told")
		if len(got.messages) != 1 || got.messages[0] != exited(7) {
			t.Errorf("got %v", got.messages)
		}
	})
}

// TestOrphans lets a job leave children behind in numbers: none stays a zombie.
func TestOrphans(t *testing.T) { onEngines(t, orphans) }

func orphans(t *testing.T, e *site) {
	script := `i=0; while [ $i -lt 100 ]; do (sh -c 'sleep 0.1' &) ; i=$((i+1)); done; sleep 1; ` +
		`z=0; for s in /proc/[0-9]*/stat; do read -r line < $s || continue; case "$line" in *") Z "*) z=$((z+1));; esac; done; echo zombies $z`
	j := command("")
	j.BuildOptions.Command = "sh -c '" + strings.ReplaceAll(script, "'", `'\''`) + "'"
	got := do(t, e.server(t, func(*settings) {}), j)
	wantExit(t, got, 0)
	wantLine(t, got, "zombies 0")
}

// TestNoNetwork names a network that is not there.
func TestNoNetwork(t *testing.T) { onEngines(t, noNetwork) }

func noNetwork(t *testing.T, e *site) {
	inForms(t, func(t *testing.T, form schemas.Form) {
		s := e.server(t, func(s *settings) { s.jobNetwork = "iglu-no-such-network" })
		got := doIn(t, form, s, command("nix --version"))
		want := []string{accepted, `{"error":"The network iglu-no-such-network is not on the container engine.","msg":"` +
			`Make it there, or set IGLU_JOB_NETWORK to one that is, or to nothing for one of the builder's own.","jobStatus":"failed"}`}
		if diff := cmp.Diff(want, got.messages); diff != "" {
			t.Errorf("messages (-want +got):\n%s", diff)
		}
	})
}

// TestInterfaceGoes has an engine fail to make the jobs' network in the way in which Podman
// does now and then.
func TestInterfaceGoes(t *testing.T) { onEngines(t, interfaceGoes) }

func interfaceGoes(t *testing.T, e *site) {
	f := startFaulty(t, e.socket())
	s := e.serverVia(t, f.host(), func(*settings) {})
	f.at(stepAt("create network", "POST /networks/create", 1), func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, `{"message":"route ip+net: no such network interface"}`, http.StatusInternalServerError)
		return true
	})
	wantExit(t, do(t, s, command("nix --version")), 0)
	if !f.hit() {
		t.Error("the call was not made")
	}
}

// TestManyLines has a job print a million lines: each arrives as one message.
func TestManyLines(t *testing.T) {
	t.Parallel()
	s := serverWith(t, func(*settings) {})
	inForms(t, func(t *testing.T, form schemas.Form) {
		const lines = 1_000_000
		c := connectIn(t, form, s)
		c.sendJob(command(fmt.Sprintf("seq -f %%077.0f %d", lines)))
		c.waitFor("iglu: running")
		var message []byte
		for n := 1; n <= lines; n++ {
			if n%1000 == 1 {
				c.conn.SetReadDeadline(time.Now().Add(messageTimeout))
			}
			// Not with read: the schema's oracle takes longer than the job.
			_, r, err := c.conn.NextReader()
			if err != nil {
				t.Fatalf("line %d: %v", n, err)
			}
			if message, err = readInto(message[:0], r); err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf(`{"stdout":"%077d","jobStatus":"running"}`, n)
			got := message
			if form == schemas.Stack {
				if got, err = inDocumentsForm(message); err != nil {
					t.Fatalf("line %d is %s: %v", n, message, err)
				}
			}
			if string(got) != want {
				t.Fatalf("line %d is %s", n, message)
			}
		}
		if got := c.finish(); len(got.lines) != 0 || len(got.messages) != 1 || got.messages[0] != succeeded {
			t.Errorf("after the lines came %+v", got)
		}
	})
}

func readInto(buf []byte, r io.Reader) ([]byte, error) {
	w := bytes.NewBuffer(buf)
	_, err := w.ReadFrom(r)
	return w.Bytes(), err
}

// TestExampleJobs checks that the examples' job files are jobs.
func TestExampleJobs(t *testing.T) {
	var flags buildclient.JobFlags
	flags.Register(pflag.NewFlagSet("", pflag.ContinueOnError))
	for name, want := range map[string]schemas.Form{
		"hello/job.json":                 schemas.Document,
		"hello/job-flake-reference.json": schemas.Document,
		"hello/job-push.json":            schemas.Document,
		"iglu-stack/job.json":            schemas.Stack,
	} {
		text, err := readJob([]string{"../../examples/" + name}, &flags, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, form, err := schemas.ParseRequest(text, []string{"nix"}); err != nil || form != want {
			t.Errorf("%s: form %d, %v", name, form, err)
		}
	}
}
