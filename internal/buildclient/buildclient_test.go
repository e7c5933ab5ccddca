package buildclient

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/termtest"
)

// TestExitCodes checks the exit code and the output for every end of a job, in every view.
func TestExitCodes(t *testing.T) {
	unpushed := schemas.Exited(75)
	unpushed.Msg = "The build itself succeeded, but …"
	for _, test := range []struct {
		last schemas.Response
		code int
		says string // on standard error, or on the terminal
	}{
		{schemas.Exited(0), 0, ""},
		{schemas.Exited(1), 1, "exit"},
		{schemas.Exited(255), 255, "exit"},
		{unpushed, 75, "The build itself succeeded"},
		{schemas.Unable("The job was cancelled.", "It ran longer than 1s."), ExitClient, "It ran longer than 1s."},
	} {
		for _, events := range []bool{true, false} {
			url := startBuilder(t, events, func(b *builderConn) {
				b.accept()
				b.lines("a line")
				b.end(test.last, &schemas.VerdictEvent{End: "exited", Seconds: 1})
				b.untilGone()
			})
			var said string
			for name, submitted := range map[string]func() result{
				"terminal": func() result {
					term := termtest.Open(t, 80, 24)
					r := <-submit(t, Options{URL: url, Stdout: term.TTY})
					term.Finish()
					said = term.Screen()
					return r
				},
				"file": func() result {
					r := <-submit(t, Options{URL: url, Stdout: io.Discard})
					said = fmt.Sprint(r.err)
					return r
				},
				"json": func() result {
					var stdout bytes.Buffer
					r := <-submit(t, Options{URL: url, Stdout: &stdout, JSON: true})
					said = stdout.String()
					return r
				},
			} {
				if got := submitted(); got.code != test.code || !strings.Contains(said, test.says) {
					t.Errorf("%s, events %v, %s: exit code %d, want %d: %s", name, events, test.last.Encode(), got.code, test.code, said)
				}
			}
		}
	}
}

// TestRefused submits a job that the builder refuses.
func TestRefused(t *testing.T) {
	url := startBuilder(t, true, func(b *builderConn) {
		b.conn.WriteMessage(1, schemas.Busy().Encode())
		b.untilGone()
	})
	term := termtest.Open(t, 80, 5)
	got := <-submit(t, Options{URL: url, Stdout: term.TTY})
	if got.code != ExitClient || got.err == nil || got.err.Error() != "A build job is already running.\nhint: with --wait the client tries again until the builder has room for the job" {
		t.Errorf("exit code %d, %v", got.code, got.err)
	}
	term.Want("")
}

// TestJSON compares the printed messages with the sent ones.
func TestJSON(t *testing.T) {
	url := startBuilder(t, true, func(b *builderConn) {
		b.accept()
		b.lines("plain", `with "quotes"`)
		b.event(schemas.LineEvent{Derivation: hello, Text: "its own"})
		b.event(downloading)
		b.end(schemas.Exited(3), &schemas.VerdictEvent{End: "exited", ExitCode: number(3)})
		b.untilGone()
	})
	var stdout, stderr bytes.Buffer
	<-submit(t, Options{URL: url, Stdout: &stdout, Stderr: &stderr, JSON: true})
	want := `{"msg":"Start Building","jobStatus":"starting","seq":1,"time":"2023-11-14T22:13:20.000Z"}
{"stdout":"plain","jobStatus":"running","seq":2,"time":"2023-11-14T22:13:20.000Z","stream":"stdout"}
{"stdout":"with \"quotes\"","jobStatus":"running","seq":3,"time":"2023-11-14T22:13:20.000Z","stream":"stdout"}
{"jobStatus":"running","seq":4,"time":"2023-11-14T22:13:20.000Z","event":{"type":"line","derivation":"` + hello + `","text":"its own"}}
{"jobStatus":"running","seq":5,"time":"2023-11-14T22:13:20.000Z","event":{"type":"progress","derivations":{"done":2,"running":2,"expected":5,"failed":0},"paths":{"done":3,"running":1,"expected":10,"failed":0},"bytes":{"done":12900000,"expected":47800000}}}
{"error":"Something went wrong while building. Builder exited with error code 3","buildExitCode":3,"childExitCode":3,"jobStatus":"failed","seq":6,"time":"2023-11-14T22:13:20.000Z","event":{"type":"verdict","end":"exited","exitCode":3,"seconds":0,"phases":null}}
`
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(stdout.String(), "\n")); diff != "" || stderr.Len() > 0 {
		t.Errorf("standard output (-want +got):\n%s\nstandard error: %s", diff, &stderr)
	}
}

// A countingWriter closes reached when a word has been written a number of times.
type countingWriter struct {
	bytes.Buffer
	word    string
	times   int
	reached chan struct{}
}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.Buffer.Write(p)
	if w.times > 0 && strings.Count(w.String(), w.word) >= w.times {
		w.times = 0
		close(w.reached)
	}
	return len(p), nil
}

// TestProgressWithoutTerminal checks the lines about progress if the output is not a terminal.
func TestProgressWithoutTerminal(t *testing.T) {
	stderr := &countingWriter{word: "building 0s", times: 3, reached: make(chan struct{})}
	url := startBuilder(t, true, func(b *builderConn) {
		b.accept()
		b.event(schemas.PhaseEvent{Phase: schemas.Build})
		b.event(begin(hello, "buildPhase"))
		b.event(downloading)
		b.lines("one")
		<-stderr.reached
		b.lines("two")
		b.end(schemas.Exited(0), nil)
		b.untilGone()
	})
	var stdout bytes.Buffer
	<-submit(t, Options{URL: url, Stdout: &stdout, Stderr: stderr, interval: 100 * time.Millisecond, now: newClock().Now})
	const word = `iglu-builder: building 0s · 2/5 built · 3/10 paths fetched, 12\.3/45\.6 MiB · hello-2\.12\.1 \(buildPhase\) 0s\n`
	if !regexp.MustCompile(`^Start Building\n(` + word + `){3,}Build was successfull\n$`).MatchString(stderr.String()) {
		t.Errorf("standard error: %s", stderr.String())
	}
	if stdout.String() != "one\ntwo\n" {
		t.Errorf("standard output: %s", &stdout)
	}
}

// TestNoColor checks that NoColor writes no colours to a terminal.
func TestNoColor(t *testing.T) {
	painted := make(chan struct{})
	url := startBuilder(t, true, func(b *builderConn) {
		b.accept()
		b.event(begin(hello, ""))
		b.lines("\x1b[31mred\x1b[0m")
		<-painted
		b.event(schemas.DerivationEvent{Derivation: hello, State: schemas.DerivationFailed, Log: []string{"\x1b[31mred"}})
		b.end(schemas.Exited(1), nil)
		b.untilGone()
	})
	for _, noColor := range []bool{true, false} {
		term := termtest.Open(t, 80, 20)
		ended := submit(t, Options{URL: url, Stdout: term.TTY, NoColor: noColor, now: newClock().Now})
		term.WantMatch(time.Minute, regexp.MustCompile("running 0s"))
		painted <- struct{}{}
		<-ended
		term.Want("red\n\nhello-2.12.1 failed; its last lines:\n  red\n\nFailed with exit code 1 after 0.0s")
		sequences := regexp.MustCompile(`\x1b\[[0-9;]*m`).FindAllString(term.Bytes(), -1)
		if noColor == (len(sequences) > 0) {
			t.Errorf("NO_COLOR %v: colours %q", noColor, sequences)
		}
	}
}

// TestSummaryOfPush checks the summary of a successful job that pushes.
func TestSummaryOfPush(t *testing.T) {
	const result = "/nix/store/00000000000000000000000000000000-hello-2.12.1"
	private := ed25519.NewKeyFromSeed([]byte("the signing key of all the tests"))
	key := base64.StdEncoding.EncodeToString(private)
	public := base64.StdEncoding.EncodeToString(private[ed25519.SeedSize:])
	pushed := &schemas.VerdictEvent{End: "exited", Seconds: 7300, Commit: "0123abc", Pushed: &schemas.Pushed{Paths: 3, Bytes: 2048}}
	job := func(signingKey string) []byte {
		return jsonOf(t, schemas.Request{Git: schemas.Git{NoClone: true}, BuildOptions: schemas.BuildOptions{Command: "nix",
			Cachix: schemas.Cachix{Push: true, Target: "https://cache.example.com/team", APIKey: "x", SigningKey: signingKey}}})
	}
	for _, test := range []struct {
		name string
		job  []byte
		line string
		want string
	}{
		{"result and key", job(key), result, "  get it  nix-store --realise " + result + " --option extra-substituters https://cache.example.com/team" +
			" --option extra-trusted-public-keys team:" + public},
		{"key with a name", job("mine:" + key), result, "  get it  nix-store --realise " + result + " --option extra-substituters https://cache.example.com/team" +
			" --option extra-trusted-public-keys team:" + public},
		{"no key", job(""), result, "  get it  nix-store --realise " + result + " --option extra-substituters https://cache.example.com/team"},
		{"no result", job(key), "done", "  get it  from the substituter https://cache.example.com/team, whose key is team:" + public},
	} {
		url := startBuilder(t, true, func(b *builderConn) {
			b.accept()
			b.lines(test.line)
			b.end(schemas.Exited(0), pushed)
			b.untilGone()
		})
		term := termtest.Open(t, 250, 20)
		<-submit(t, Options{URL: url, Stdout: term.TTY, Job: test.job})
		term.Want(test.line + "\n\nBuilt in 2h01m\n  commit  0123abc\n  pushed  3 paths, 2.0 KiB, to https://cache.example.com/team\n" + test.want)
	}
}

// TestNumberOfPaths checks the summary of a push of one path.
func TestNumberOfPaths(t *testing.T) {
	for paths, want := range map[int64]string{0: "0 paths", 1: "1 path", 2: "2 paths"} {
		url := startBuilder(t, true, func(b *builderConn) {
			b.accept()
			b.lines("a line")
			b.end(schemas.Exited(0), &schemas.VerdictEvent{End: "exited", Pushed: &schemas.Pushed{Paths: paths, Bytes: 2048}})
			b.untilGone()
		})
		term := termtest.Open(t, 80, 20)
		job := jsonOf(t, schemas.Request{BuildOptions: schemas.BuildOptions{Cachix: schemas.Cachix{Push: true, Target: "https://c/n"}}})
		<-submit(t, Options{URL: url, Stdout: term.TTY, Job: job})
		term.Want("a line\n\nBuilt in 0.0s\n  pushed  " + want + ", 2.0 KiB, to https://c/n\n  get it  from the substituter https://c/n\n")
	}
}

// TestStatusFits checks that status lines fit into terminals of every width.
func TestStatusFits(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	big := func() int64 { return random.Int64N(1 << random.IntN(50)) }
	phases := []schemas.Phase{"", schemas.Pull, schemas.Build, schemas.PushRest, "日本語の段階"}
	for range 3_000 {
		p := newProgress(time.Time{})
		p.phase = phases[random.IntN(len(phases))]
		p.counts.Derivations = schemas.Counts{Done: big(), Expected: big(), Failed: big()}
		p.counts.Paths = schemas.Counts{Done: big(), Expected: big()}
		p.counts.Bytes = schemas.Share{Done: big(), Expected: big()}
		if random.IntN(2) == 0 {
			p.push = &schemas.PushEvent{Paths: schemas.Share{Done: big(), Expected: big()}, Bytes: big()}
		}
		for range random.IntN(4) {
			p.takeDerivation(begin([]string{hello, gcc, wide}[random.IntN(3)], ""), time.Time{})
		}
		width := 1 + random.IntN(220)
		status := p.status(width, time.Time{}.Add(time.Duration(big())))
		if got := ansi.StringWidth(status); got > width || status == "" && width > 10 {
			t.Fatalf("%d cells instead of %d: %s", got, width, status)
		}
	}
}

// TestJobOfFlags compares flags with the jobs that they describe.
func TestJobOfFlags(t *testing.T) {
	folder := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(folder, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	gitKey, apiKey, signingKey, empty := file("git", "-----BEGIN\nkey\n"), file("api", "token\r\n"), file("sign", "c2lnbg=="), file("empty", "\n")
	netrc := file("netrc", "machine a password b\n")
	marked, utf16 := file("marked", "\ufefftoken\r\n"), file("utf16", "t\x00o\x00\r\x00\n\x00")
	noPush := `"cachix":{"push":false}`
	for _, test := range []struct {
		name    string
		args    []string
		environ map[string]string
		job     string // or
		err     string
	}{
		{"repository", []string{"--repo", "https://x/y"}, nil,
			`{"git":{"repository":"https://x/y","noClone":false},"buildOptions":{"command":"` + defaultCommand + `",` + noPush + `}}`, ""},
		{"command", []string{"--command", "nix build x#y", "--arg", "--option", "--arg", "a b"}, nil,
			`{"git":{"noClone":true},"buildOptions":{"extraArgs":"--option 'a b'","command":"nix build x#y",` + noPush + `}}`, ""},
		{"everything", []string{"--repo", "r", "--branch", "b", "--no-clone", "--git-user", "u", "--git-key-file", gitKey, "--command", "c",
			"--cores", "0", "--system", "aarch64-linux", "--max-jobs", "2", "--keep-going", "--substituter", "s1", "--substituter", "s2", "--trusted-public-key", "k",
			"--push-to", "https://c/n", "--api-key-file", apiKey, "--signing-key-file", signingKey}, nil,
			`{"git":{"repository":"r","branch":"b","gitUsername":"u","gitKey":"-----BEGIN\nkey","requiresAuth":true,"noClone":true},` +
				`"buildOptions":{"cores":0,"maxJobs":2,"keep_going":true,"substituters":["s1","s2"],"trustedPublicKeys":["k"],"command":"c",` +
				`"cachix":{"push":true,"target":"https://c/n","apiKey":"token","signingKey":"c2lnbg=="}},"system":"aarch64-linux"}`, ""},
		{"environment", []string{"--repo", "r", "--push-to", "https://c/n"}, map[string]string{EnvGitKey: "g", EnvAPIKey: "a", EnvSigningKey: "s"},
			`{"git":{"repository":"r","gitKey":"g","requiresAuth":true,"noClone":false},"buildOptions":{"command":"` + defaultCommand +
				`","cachix":{"push":true,"target":"https://c/n","apiKey":"a","signingKey":"s"}}}`, ""},
		{"file before environment", []string{"--repo", "r", "--git-key-file", gitKey}, map[string]string{EnvGitKey: "g"},
			`{"git":{"repository":"r","gitKey":"-----BEGIN\nkey","requiresAuth":true,"noClone":false},"buildOptions":{"command":"` + defaultCommand + `",` + noPush + `}}`, ""},
		{"line ends in the environment", []string{"--repo", "r", "--push-to", "https://c/n"}, map[string]string{EnvGitKey: "g\n", EnvAPIKey: "a\r\n"},
			`{"git":{"repository":"r","gitKey":"g","requiresAuth":true,"noClone":false},"buildOptions":{"command":"` + defaultCommand +
				`","cachix":{"push":true,"target":"https://c/n","apiKey":"a"}}}`, ""},
		{"no repository, no key", []string{"--command", "nix"}, map[string]string{EnvGitKey: "g"},
			`{"git":{"noClone":true},"buildOptions":{"command":"nix",` + noPush + `}}`, ""},
		{"byte order mark", []string{"--repo", "r", "--git-key-file", marked}, nil,
			`{"git":{"repository":"r","gitKey":"token","requiresAuth":true,"noClone":false},"buildOptions":{"command":"` + defaultCommand + `",` + noPush + `}}`, ""},
		{"UTF-16", []string{"--repo", "r", "--git-key-file", utf16}, nil, "", "--git-key-file: " + utf16 + " is not UTF-8 text"},
		{"Latin-1", []string{"--repo", "r"}, map[string]string{EnvGitKey: "gr\xfcn"}, "", EnvGitKey + " is not UTF-8 text"},
		{"no push, no keys", []string{"--repo", "r"}, map[string]string{EnvAPIKey: "a", EnvSigningKey: "s"},
			`{"git":{"repository":"r","noClone":false},"buildOptions":{"command":"` + defaultCommand + `",` + noPush + `}}`, ""},
		{"tokens", []string{"--repo", "r", "--access-token-file", "github.com=" + apiKey, "--access-token-file", "a.b/c=" + gitKey, "--netrc-file", netrc}, nil,
			`{"git":{"repository":"r","noClone":false},"buildOptions":{"command":"` + defaultCommand + `",` + noPush + `},` +
				`"nix":{"accessTokens":{"a.b/c":"-----BEGIN\nkey","github.com":"token"},"netrc":"machine a password b"}}`, ""},
		{"token on the command line", []string{"--repo", "r", "--access-token-file", "token"}, nil, "", "put the token into the file"},
		{"no file of a token", []string{"--repo", "r", "--access-token-file", "a=" + folder + "/none"}, nil, "", "--access-token-file: open "},
		{"no netrc", []string{"--repo", "r", "--netrc-file", folder + "/none"}, nil, "", "--netrc-file: open "},
		{"nothing", nil, nil, "", "give a repository with --repo, or a command with --command"},
		{"no command", []string{"--repo", "r", "--no-clone"}, nil, "", "without a clone there is nothing to build\nhint: give a command with --command, or leave out --no-clone"},
		{"branch of nothing", []string{"--command", "nix", "--branch", "main"}, nil, "", "a branch, a git user or a git key is given without the repository\nhint: give its URL with --repo"},
		{"git user of nothing", []string{"--git-user", "me"}, nil, "", "is given without the repository"},
		{"git key of nothing", []string{"--command", "nix", "--git-key-file", "k"}, nil, "", "is given without the repository"},
		{"no token", []string{"--repo", "r", "--push-to", "https://c/n"}, nil, "", "put it into CACHIX_AUTH_TOKEN"},
		{"no cache", []string{"--repo", "r", "--api-key-file", apiKey}, nil, "", "give the cache's URL with --push-to"},
		{"empty file", []string{"--repo", "r", "--git-key-file", empty}, nil, "", "is empty"},
		{"no file", []string{"--repo", "r", "--git-key-file", folder + "/none"}, nil, "", "--git-key-file: open "},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, name := range []string{EnvGitKey, EnvAPIKey, EnvSigningKey} {
				t.Setenv(name, test.environ[name])
			}
			var flags JobFlags
			set := pflag.NewFlagSet("", pflag.ContinueOnError)
			flags.Register(set)
			if err := set.Parse(test.args); err != nil {
				t.Fatal(err)
			}
			job, err := flags.Job()
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %s", err, test.err)
				}
				return
			}
			if diff := cmp.Diff(test.job, string(job)); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			if flags.Given() != (len(test.args) > 0) {
				t.Error("Given is wrong")
			}
		})
	}
}

// TestCannotPrint submits a job whose log cannot be printed. The error does not blame the builder.
func TestCannotPrint(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		u := startBuilder(t, true, func(b *builderConn) {
			b.accept()
			b.lines("a line")
			b.untilGone()
		})
		got := <-submit(t, Options{URL: u, Stdout: failing{}, Stderr: io.Discard, JSON: asJSON})
		if got.code != ExitClient || got.err == nil || got.err.Error() != "print the log: the disk is full" {
			t.Errorf("JSON %v: exit code %d, %v", asJSON, got.code, got.err)
		}
	}
}
