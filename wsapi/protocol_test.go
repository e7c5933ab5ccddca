package wsapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"iglu.sh/builder/schemas"
)

// TestRefusedMessages compares the server's answers to malformed first messages with the message table of the protocol, in
// both formats.
func TestRefusedMessages(t *testing.T) {
	eachForm(t, func(t *testing.T, format schemas.Format) {
		for _, row := range refusedMessages(format) {
			bubble(t, row.name, func(t *testing.T) {
				f := serve(t, &fakeBuilder{}) // builds nothing
				c := f.dial()
				if err := c.WriteMessage(row.kind, []byte(row.send)); err != nil {
					t.Fatal(err)
				}
				c.finish().check(t, websocket.CloseInvalidFramePayloadData, inFormat(row.format, row.want))
				f.wantRefused(row.reason)
				wantFree(t, f)
			})
		}
	})
}

type refusedMessage struct {
	name   string
	kind   int
	send   string
	format schemas.Format // of the answer: before a job is understood, it has none
	want   string
	reason string
}

func refusedMessages(format schemas.Format) []refusedMessage {
	const text = websocket.TextMessage
	// What differs between the forms beside a job's spelling.
	object, options, repository, noClone := "git", "buildOptions", "git.repository", "noClone"
	if format == schemas.Stack {
		object, options, repository, noClone = "git_config", "build_options", "git_config.repository", "noclone"
	}
	missing := options + ": is missing"
	if format == schemas.Stack {
		missing += "; cachix_config: is missing"
	}
	return []refusedMessage{
		{"not JSON", text, `{"` + object + `":`, schemas.Document,
			notJSON(fmt.Sprintf("line 1, column %d: unexpected end of JSON input", len(object)+5)), "malformed"},
		{"empty", text, ``, schemas.Document, notJSON("the message is empty, or no text"), "malformed"},
		{"two documents", text, `{} {}`, schemas.Document, notJSON("line 1, column 4: invalid character '{' after top-level value"), "malformed"},
		{"a name twice", text, `{"` + object + `":{"` + noClone + `":true,"` + noClone + `":true}}`, schemas.Document,
			notJSON(fmt.Sprintf("line 1, column %d: the second property of this name in one object", len(object)+2*len(noClone)+15)), "malformed"},
		{"invalid UTF-8", text, "{\"" + object + "\":\"\xff\"}", schemas.Document, notJSON(fmt.Sprintf("line 1, column %d: not UTF-8", len(object)+6)), "malformed"},
		{"not text", websocket.BinaryMessage, jobIn(format, "nix"), schemas.Document, notJSON("the message is empty, or no text"), "malformed"},
		{"schema", text, `{"` + object + `":{"` + noClone + `":true}}`, format, invalid(missing), "invalid"},
		{"two forms", text, `{"git":{},"git_config":{}}`, schemas.Document,
			invalid("the job has git of one form and git_config of the other; send it in one"), "invalid"},
		{"rule", text, strings.Replace(jobIn(format, "nix"), "true", "false", 1), format,
			invalid(repository + ": is required when " + noClone + " is false"), "invalid"},
		{"command", text, jobIn(format, "make all"), format, `{"error":"Invalid command: 'make all'","msg":"` + options +
			`.command: its first word must be one of: nix, sh","buildExitCode":2,"childExitCode":2,"jobStatus":"failed"}`, "command"},
	}
}

func invalid(msg string) string {
	return fmt.Sprintf(`{"error":"JSON schema is not valid.","msg":%q,"jobStatus":"failed"}`, msg)
}

// TestStackRefusals has the stack's empty strings where something is needed.
func TestStackRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, &fakeBuilder{})
		for change, want := range map[[2]string]string{
			{`"noclone":true`, `"noclone":true,"requiresauth":true`}: "git_config.gitkey: is required when requiresauth is true",
			{`"cachix_config":{}`, `"cachix_config":{"push":true}`}:  "cachix_config.target: is required when push is true; cachix_config.apikey: is required when push is true",
			{`"command"`, `"maxjobs":0,"command"`}:                   "build_options.maxjobs: must be 1 or more",
			{`"command"`, `"cores":null,"command"`}:                  "build_options.cores: must be a number",
		} {
			c := f.dial()
			c.send(strings.Replace(jobIn(schemas.Stack, "nix"), change[0], change[1], 1))
			c.finish().check(t, websocket.CloseInvalidFramePayloadData,
				inFormat(schemas.Stack, invalid(want)))
		}
	})
}

// TestOutput runs jobs that print, and end.
func TestOutput(t *testing.T) {
	unable := schemas.Unable("The container engine does not answer.", "Start it.")
	eachForm(t, func(t *testing.T, format schemas.Format) {
		for _, test := range []struct {
			name  string
			print string
			end   schemas.Response
			want  []string
			code  int
		}{
			{"success", "\"<one>\"\n\ntwo\n", schemas.Exited(0), []string{line(`"<one>"`), line(""), line("two"), succeeded}, websocket.CloseNormalClosure},
			{"nothing printed", "", schemas.Exited(0), []string{succeeded}, websocket.CloseNormalClosure},
			{"exit code", "one\n", schemas.Exited(42), []string{line("one"), exited(42)}, websocket.CloseInternalServerErr},
			{"not able", "", unable, []string{string(unable.Encode())}, websocket.CloseInternalServerErr},
		} {
			bubble(t, test.name, func(t *testing.T) {
				var got *schemas.Request
				f := serve(t, &fakeBuilder{build: func(_ context.Context, request *schemas.Request, out io.Writer) schemas.Message {
					got = request
					if n, err := io.WriteString(out, test.print); n != len(test.print) || err != nil {
						t.Errorf("%d bytes written: %v", n, err)
					}
					return answer(test.end)
				}})
				c := f.dial()
				c.send(jobIn(format, "nix build .#x"))
				want := []string{inFormat(format, accepted)}
				for _, message := range test.want {
					want = append(want, inFormat(format, message))
				}
				c.finish().check(t, test.code, want...)
				if got.BuildOptions.Command != "nix build .#x" || !got.Git.NoClone {
					t.Errorf("the job is %+v", got)
				}
				f.wantRefused()
			})
		}
	})
}

// TestLongOutput has a job write much at once: each line arrives as one message, in order.
func TestLongOutput(t *testing.T) {
	forms(t, func(t *testing.T, format schemas.Format) {
		var text strings.Builder
		want := []string{inFormat(format, accepted)}
		for n := range 5_000 {
			length := n % 200 // with every length of a frame's header
			if n%2500 == 1 {
				length = 70_000
			}
			printed := fmt.Sprint(n, strings.Repeat("x", length))
			text.WriteString(printed + "\n")
			want = append(want, inFormat(format, line(printed)))
		}
		c := serve(t, printing(text.String(), 0)).dial()
		c.send(jobIn(format, "nix"))
		c.finish().check(t, websocket.CloseNormalClosure, append(want, inFormat(format, succeeded))...)
	})
}

func TestSecondClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, printing("", 0))
		first := f.dial()
		for range 3 {
			f.dial().finish().check(t, websocket.CloseInternalServerErr, busy)
		}
		f.wantRefused("busy", "busy", "busy")
		// The refused clients left no trace: the first is still the one.
		first.send(job())
		first.finish().check(t, websocket.CloseNormalClosure, accepted, succeeded)
	})
}

// TestHundredClients connects a hundred clients at once: one gets in.
func TestHundredClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients = 100
		f := serve(t, printing("", 0))
		var all sync.WaitGroup
		stories := make(chan story, clients)
		for range clients {
			all.Go(func() { stories <- f.dial().finish() })
		}
		all.Wait()
		close(stories)
		admitted := 0
		for s := range stories {
			if cmp.Equal(s.messages, []string{noJobInTime}) { // it sent none, for all it was let in
				admitted++
				continue
			}
			s.check(t, websocket.CloseInternalServerErr, busy)
		}
		if admitted != 1 {
			t.Errorf("%d of %d clients got in", admitted, clients)
		}
		wantFree(t, f)
	})
}

// TestSlotIsFreeFirst connects again after the client has read its last message, for each kind of last message: the server
// sends it only when the slot is free.
func TestSlotIsFreeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, printing("", 3))
		for n := range 50 {
			c := f.dial()
			if n%2 == 0 {
				c.send("{}")
			} else {
				c.send(job())
				c.next()
			}
			if message := c.next(); message == busy {
				t.Fatalf("client %d gets %s", n, message)
			}
		}
	})
}

func TestSecondJobOnAConnection(t *testing.T) {
	forms(t, func(t *testing.T, format schemas.Format) {
		b := newHeldBuilder()
		c := serve(t, b).dial()
		c.send(jobIn(format, "nix"))
		out := <-b.begun
		c.next()
		c.send(jobIn(format, "nix"))
		want := inFormat(format, busy)
		if got := c.next(); got != want {
			t.Errorf("a second job gets %s, want %s", got, want)
		}
		c.WriteMessage(websocket.BinaryMessage, []byte("anything"))
		if got := c.next(); got != want {
			t.Errorf("something else gets %s, want %s", got, want)
		}
		io.WriteString(out, "done\n")
		b.exit <- 0
		c.finish().check(t, websocket.CloseNormalClosure, inFormat(format, line("done")), inFormat(format, succeeded))
	})
}

func TestJobTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, printing("", 0), func(o *Options) { o.MaxRequestBytes = 200_000 })
		padded := func(size int) string {
			text := job()
			return text + strings.Repeat(" ", size-len(text))
		}
		for _, size := range []int{200_001, 2 << 20} {
			c := f.dial()
			// What is too much of it may not be read any more.
			go c.WriteMessage(websocket.TextMessage, []byte(padded(size)))
			c.finish().check(t, websocket.CloseMessageTooBig)
		}
		f.wantRefused("too-large", "too-large")
		c := f.dial()
		c.send(padded(200_000))
		c.finish().check(t, websocket.CloseNormalClosure, accepted, succeeded)
	})
}

// TestJobInFrames sends a job in many frames, with a ping between two of them.
func TestJobInFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, printing("", 0)).dial()
		answered := ""
		c.SetPongHandler(func(data string) error { answered = data; return nil })
		w, err := c.NextWriter(websocket.TextMessage)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, strings.Repeat(" ", 10_000)) // more than the client's buffer
		c.WriteControl(websocket.PingMessage, []byte("there?"), time.Time{})
		io.WriteString(w, job())
		w.Close()
		c.finish().check(t, websocket.CloseNormalClosure, accepted, succeeded)
		if answered != "there?" {
			t.Errorf("the ping is answered with %q", answered)
		}
	})
}

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var unhealthy error
		f := serve(t, &fakeBuilder{healthy: func(context.Context) error { return unhealthy }})
		check := func(method, path string, status int, body string) {
			t.Helper()
			if gotStatus, got := f.ask(method, path); gotStatus != status || got != body {
				t.Errorf("%s %s: %d %q, want %d %q", method, path, gotStatus, got, status, body)
			}
		}
		check("GET", "/api/v1/healthcheck", 200, "Everyting seems healthy!")
		check("GET", "/readyz", 200, "The builder accepts jobs.\n")
		check("GET", "/livez", 200, "The builder is running.\n")
		for path, methods := range map[string]string{"/api/v1/healthcheck": "GET, HEAD", "/readyz": "GET, HEAD", "/livez": "GET, HEAD", schemas.BuildPath: "GET"} {
			if methods == "GET" {
				check("HEAD", path, 405, "")
			} else {
				check("HEAD", path, 200, "")
			}
			for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
				check(method, path, 405, "Method Not Allowed\n")
			}
			response, _ := f.do(newRequest(t, "POST", path, nil, ""))
			if allowed := response.Header.Get("Allow"); allowed != methods {
				t.Errorf("%s allows %q", path, allowed)
			}
		}
		unhealthy = errors.New("dial unix: no such file")
		const notHealthy = "The builder cannot run jobs: its container engine does not answer.\n"
		check("GET", "/api/v1/healthcheck", 503, notHealthy)
		check("GET", "/readyz", 503, "The builder cannot run jobs: dial unix: no such file\n")
		check("HEAD", "/readyz", 503, "")
		check("GET", "/livez", 200, "The builder is running.\n")
		if !strings.Contains(f.log.String(), "no such file") {
			t.Errorf("the log does not say why: %s", f.log.String())
		}
	})
}

// TestRefusedIsLogged has clients that get no job: the log says which, and why.
func TestRefusedIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, printing("", 0))
		first := f.dial()
		f.dial().finish()
		first.send("{}")
		first.finish()
		f.server.Drain()
		f.dial().finish()
		for _, want := range []string{"busy\n", "invalid err=.*\n", "draining\n"} {
			want = `level=INFO msg="client refused" client=\S+ reason=` + want
			if !regexp.MustCompile(want).MatchString(f.log.String()) {
				t.Errorf("the log lacks %s:\n%s", want, f.log.String())
			}
		}
	})
}

// TestNoWebSocket asks for the build endpoint as for a page. That does not take the slot.
func TestNoWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, printing("", 0))
		for range 2 {
			if status, _ := f.ask("GET", schemas.BuildPath); status != 400 {
				t.Errorf("status %d", status)
			}
		}
		wantFree(t, f)
	})
}
