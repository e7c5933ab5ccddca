package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/buildclient"
	"iglu.sh/builder/internal/server"
)

// TestSettingsThatCannotBeRead starts servers with invalid settings. Each exits with code 2 and a sentence with the
// setting's name.
func TestSettingsThatCannotBeRead(t *testing.T) {
	tests := []struct {
		flag, value string
		want        string
	}{
		{"listen", "3000", `"3000" is not an address such as 127.0.0.1:3000 or :3000`},
		{"listen", "localhost:http-not", `"localhost:http-not" is not an address such as 127.0.0.1:3000 or :3000`},
		{"listen", "127.0.0.1:", `"127.0.0.1:" is not an address such as 127.0.0.1:3000 or :3000`},
		{"public-url", "https://builder.example.com/?", `"https://builder.example.com/?" is not a URL such as https://builder.example.com`},
		{"job-image", "Not An Image", `"Not An Image" is not the name of an image: `},
		{"pull", "sometimes", `"sometimes" is none of "missing" "always" "never"`},
		{"store", "mine", `"mine" is none of "repository" "shared" "ephemeral"`},
		{"store-max-bytes", "lots", `"lots" is not a size such as`},
		{"job-memory", "10", `"10" is not a size of at least 64MiB such as 8GiB, nor a share such as 75%`},
		{"job-memory", "101%", `"101%" is not a size of at least 64MiB such as 8GiB, nor a share such as 75%`},
		{"job-cpus", "0", `"0" is not a number of CPUs such as 1.5, nor a share such as 75%`},
		{"job-cpus", "NaN", `"NaN" is not a number of CPUs such as 1.5, nor a share such as 75%`},
		{"job-pids", "10", `"10" is not a number of at least 64`},
		{"build-timeout", "0", `"0" is not a time such as 30s or 5m`},
		{"silence-timeout", "never", `"never" is not a time such as 30s or 5m, nor off`},
		{"shutdown-grace", "30", `"30" is not a time such as 30s or 5m, nor 0`},
		{"allowed-origins", "https://example.com/path", `"https://example.com/path" is not a list of origins`},
		{"nix-sandbox", "maybe", `"maybe" is none of "auto" "on" "off"`},
		{"nix-sandbox-unsafe", "true", `"true" is neither yes nor no`},
		{"instance", "a/b", `"a/b" is not a name of letters, digits, dots, dashes and underscores`},
		{"allowed-commands", "nix,,sh", `"nix,,sh" is not a list of programs such as nix,nix-build`},
		{"allowed-commands", "nix nix-build", `"nix nix-build" is not a list of programs such as nix,nix-build`},
		{"allowed-commands", `"nix,nix-build"`, `"\"nix,nix-build\"" is not a list of programs such as nix,nix-build`}, // docker run --env-file keeps quotes
		{"public-url", "https://example.com/builder ", `"https://example.com/builder " is not a URL such as https://builder.example.com`},
		{"state-dir", "/nonexistent/state\n", `"/nonexistent/state\n" is not a folder: it ends with a space or a line end`}, // as from a file
		{"request-timeout", "30", `"30" is not a time such as 30s or 5m`},
		{"request-timeout", "-1s", `"-1s" is not a time such as 30s or 5m`},
		{"max-request-bytes", "many", `"many" is not a size such as 1048576 or 1MiB`},
		{"max-request-bytes", "0", `"0" is not a size such as 1048576 or 1MiB`},
		{"client-timeout", "soon", `"soon" is not a time such as 30s or 5m`},
		{"keep-logs", "all", `"all" is not a number of jobs such as 20, or of days such as 7d, or both: 20,7d`},
		{"keep-logs", "-1", `"-1" is not a number of jobs`},
		{"max-log-bytes", "1000", `"1000" is less than 256KiB`},
		{"log-format", "xml", `"xml" is neither text nor json`},
		{"log-level", "loud", `"loud" is none of debug, info, warn, error`},
	}
	for _, test := range tests {
		t.Run(test.flag+"="+test.value, func(t *testing.T) {
			wantUsage(t, []string{"serve", "--" + test.flag, test.value}, "--"+test.flag, test.want)
			t.Setenv(server.EnvName(test.flag), test.value)
			wantUsage(t, []string{"serve"}, server.EnvName(test.flag), test.want)
		})
	}
	for _, flag := range []string{"token-file", "tls-cert", "tls-key", "nix-conf-file"} { // an unset variable of a shell
		wantUsage(t, []string{"serve", "--" + flag, ""}, "--"+flag, `"" is not a file`)
	}
	for _, flag := range []string{"state-dir", "agent-keys"} {
		wantUsage(t, []string{"serve", "--" + flag, ""}, "--"+flag, `"" is not a folder`)
	}
	wantUsage(t, []string{"serve", "--no-such-flag"}, "unknown flag: --no-such-flag", "hint: see 'iglu-builder serve --help'")
	wantUsage(t, []string{"serve", "argument"}, "argument", "hint")
	wantUsage(t, []string{"no-such-command"}, "no-such-command", "hint")
	wantUsage(t, []string{"help", "no-such-command"}, `unknown command "no-such-command"`, "hint: see 'iglu-builder --help'")
	wantUsage(t, []string{"completion", "no-such-shell"}, `unknown command "no-such-shell"`, "hint: see 'iglu-builder completion --help'")
}

// TestStackVariables sets the variables of the Iglu stack, with and without the builder's own.
func TestStackVariables(t *testing.T) {
	for _, test := range []struct {
		environ string
		args    []string
		level   slog.Level
		format  string
	}{
		{"", nil, slog.LevelInfo, "text"},
		{"LOG_LEVEL= JSON_LOGGING=", nil, slog.LevelInfo, "text"},
		{"LOG_LEVEL=DEBUG", nil, slog.LevelDebug, "text"},
		{"LOG_LEVEL=INFO", nil, slog.LevelInfo, "text"},
		{"LOG_LEVEL=WARN JSON_LOGGING=true", nil, slog.LevelWarn, "json"},
		{"LOG_LEVEL=ERROR JSON_LOGGING=false", nil, slog.LevelError, "text"},
		{"LOG_LEVEL=ERROR IGLU_LOG_LEVEL=debug JSON_LOGGING=true IGLU_LOG_FORMAT=text", nil, slog.LevelDebug, "text"},
		{"LOG_LEVEL=ERROR JSON_LOGGING=true", []string{"--log-level", "info", "--log-format", "text"}, slog.LevelInfo, "text"},
		{"LOG_LEVEL=loud JSON_LOGGING=yes", []string{"--log-level", "info", "--log-format", "text"}, slog.LevelInfo, "text"},
		{"LOG_LEVEL=ERROR IGLU_LOG_LEVEL=", nil, slog.LevelError, "text"},
	} {
		t.Run(test.environ+strings.Join(test.args, " "), func(t *testing.T) {
			for _, name := range []string{"LOG_LEVEL", "JSON_LOGGING"} { // the developer's own
				t.Setenv(name, "")
			}
			for _, variable := range strings.Fields(test.environ) {
				name, value, _ := strings.Cut(variable, "=")
				t.Setenv(name, value)
			}
			var s server.Settings
			flags := pflag.NewFlagSet("", pflag.ContinueOnError)
			s.Register(flags)
			if err := flags.Parse(test.args); err != nil {
				t.Fatal(err)
			}
			if err := server.ApplyEnviron(flags); err != nil || s.LogLevel != test.level || s.LogFormat != test.format {
				t.Errorf("level %s, format %s, %v", s.LogLevel, s.LogFormat, err)
			}
		})
	}
	t.Setenv("LOG_LEVEL", "loud")
	wantUsage(t, []string{"serve"}, `LOG_LEVEL: "loud" is none of debug, info, warn, error`)
	t.Setenv("JSON_LOGGING", "yes")
	wantUsage(t, []string{"serve"}, `LOG_LEVEL: "loud"`, `JSON_LOGGING: "yes" is neither true nor false`)
}

func wantUsage(t *testing.T, args []string, want ...string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, nil, &stdout, &stderr)
	if code != 2 || stdout.Len() > 0 {
		t.Errorf("%v: exit code %d, printed %q", args, code, &stdout)
	}
	for _, text := range want {
		if !strings.Contains(stderr.String(), text) {
			t.Errorf("%v: %q is not in %q", args, text, &stderr)
		}
	}
}

// TestFlagsBeforeEnvironment sets flags and variables: the flags are used.
func TestFlagsBeforeEnvironment(t *testing.T) {
	t.Setenv("IGLU_INSTANCE", "from-the-environment")
	t.Setenv("IGLU_LOG_FORMAT", "json")
	t.Setenv("IGLU_LOG_LEVEL", "")
	t.Setenv("LOG_LEVEL", "")
	var s server.Settings
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.Register(flags)
	if err := flags.Parse([]string{"--instance", "from-a-flag"}); err != nil {
		t.Fatal(err)
	}
	if err := server.ApplyEnviron(flags); err != nil {
		t.Fatal(err)
	}
	if s.Instance != "from-a-flag" || s.LogFormat != "json" || s.LogLevel != 0 {
		t.Errorf("got %+v", s)
	}
	var log bytes.Buffer
	s.Logger(&log).Info("hello", "job", "x")
	if !strings.Contains(log.String(), `"msg":"hello","job":"x"`) {
		t.Errorf("the JSON log is %s", &log)
	}
}

// TestAddressTaken starts a server on an address that is in use.
func TestAddressTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"serve", "--listen", taken.Addr().String(), "--state-dir", t.TempDir()}, nil, &stdout, &stderr)
	want := "iglu-builder serve: listen tcp " + taken.Addr().String() + ": bind: address already in use\n" +
		"hint: set another address with --listen or IGLU_LISTEN, or stop the program that uses this one\n"
	if code != 1 || !strings.HasSuffix(stderr.String(), want) {
		t.Errorf("exit code %d, %s", code, &stderr)
	}
}

// TestUnknownVariable sets a misspelled variable.
func TestUnknownVariable(t *testing.T) {
	t.Setenv("IGLU_MAXJOBS", "3")
	t.Setenv("IGLU_LOG_FORMAT", "text")
	t.Setenv(buildclient.EnvURL, "builder:3000")
	t.Setenv(buildclient.EnvGitKey, "a key")
	var stdout, stderr bytes.Buffer
	run(t.Context(), []string{"serve", "--listen", "127.0.0.1:0", "--state-dir", "/dev/null"}, nil, &stdout, &stderr)
	const want = `level=WARN msg="unknown environment variable: it has no effect; did you mean IGLU_MAX_JOBS?" variable=IGLU_MAXJOBS` + "\n"
	if !strings.Contains(stderr.String(), want) || strings.Contains(stderr.String(), "IGLU_URL") || strings.Contains(stderr.String(), "IGLU_GIT_KEY") {
		t.Errorf("%s is not in %s", want, &stderr)
	}
}

// TestNoStateDir starts a server whose state folder is a file.
func TestNoStateDir(t *testing.T) {
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"serve", "--listen", "127.0.0.1:0", "--state-dir", "/dev/null"}, nil, &stdout, &stderr)
	if code != 1 || !strings.Contains(stderr.String(), "set IGLU_STATE_DIR to a folder that the builder may write to") {
		t.Errorf("exit code %d, %s", code, &stderr)
	}
}

// TestDocumentedSettings compares the tables of docs/configuration.md, which are grouped by purpose, with
// the settings: there is a row for each, with its default and the words that the setting takes.
func TestDocumentedSettings(t *testing.T) {
	var want, words []string
	for _, setting := range server.Table() {
		initial := ""
		if setting.Default != "" && setting.Flag != "state-dir" { // which depends on the user
			initial = "`" + setting.Default + "`"
		}
		want = append(want, fmt.Sprintf("%s %s %s", setting.Env, setting.Flag, initial))
		if setting.Kind.Type == server.YesNo {
			setting.Kind.Words = []string{"yes"} // and what else is clear
		}
		for _, word := range setting.Kind.Words {
			words = append(words, setting.Env+" "+word)
		}
	}
	const document = "../../docs/configuration.md"
	got := rows(t, document, "(?m)^\\| `(IGLU_\\w+)` \\| `--([a-z-]+)` \\| *(`[^`]*`)? *\\|")
	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got))); diff != "" {
		t.Errorf("docs/configuration.md (-settings +tables):\n%s", diff)
	}
	for _, text := range words {
		variable, word, _ := strings.Cut(text, " ")
		if len(rows(t, document, "(?m)^\\| `("+variable+")`.*\\|.*`("+regexp.QuoteMeta(word)+")`")) == 0 {
			t.Errorf("docs/configuration.md does not say that %s may be %s", variable, word)
		}
	}
}

// TestComposedSettings compares the list in docker-compose.yml with the settings.
func TestComposedSettings(t *testing.T) {
	var want []string
	for _, setting := range server.Table() {
		if setting.Flag != "listen" && setting.Flag != "state-dir" { // which the image sets
			want = append(want, setting.Env)
		}
	}
	got := rows(t, "../../docker-compose.yml", `(?m)^      - (IGLU_\w+)(?:=\S+)?$`)
	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got))); diff != "" {
		t.Errorf("docker-compose.yml (-settings +environment):\n%s", diff)
	}
}

// TestNamedSettings checks the variables in the files that run the builder, also in comments: each is a setting,
// or one of compose.
func TestNamedSettings(t *testing.T) {
	known := []string{"IGLU_NAME"} // which stands for all of them
	for _, setting := range server.Table() {
		known = append(known, setting.Env)
	}
	composed := regexp.MustCompile(`\$\{[^}]*\}`)
	for _, name := range []string{"docker-compose.yml", "images/Dockerfile", "examples/iglu-builder.service", "examples/iglu-stack/docker-compose.yml"} {
		text, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		named := regexp.MustCompile(`IGLU_\w+`).FindAllString(composed.ReplaceAllString(string(text), ""), -1)
		if len(named) == 0 {
			t.Errorf("%s names no setting", name)
		}
		for _, variable := range named {
			if !slices.Contains(known, variable) {
				t.Errorf("%s names %s, which is no setting", name, variable)
			}
		}
	}
}

// TestUnitTimes compares the times in the systemd unit and in its comments with the settings.
func TestUnitTimes(t *testing.T) {
	const unit = "../../examples/iglu-builder.service"
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	comment := regexp.MustCompile(`\n# ?`).ReplaceAllString(string(text), " ")
	if want := fmt.Sprintf("TimeoutStopSec must be at least %.0f s longer", server.StopMargin.Seconds()); !strings.Contains(comment, want) {
		t.Errorf("the unit does not say %q", want)
	}
	grace, err := time.ParseDuration(rowOf(t, "shutdown-grace").Default)
	if err != nil {
		t.Fatal(err)
	}
	stop := rows(t, unit, `(?m)^TimeoutStopSec=(\d+)$`)
	if seconds, err := strconv.Atoi(strings.Join(stop, "")); err != nil || time.Duration(seconds)*time.Second < grace+server.StopMargin {
		t.Errorf("TimeoutStopSec is %s, and IGLU_SHUTDOWN_GRACE %s by default", stop, grace)
	}
}

func rowOf(t *testing.T, flag string) server.Setting {
	t.Helper()
	table := server.Table()
	i := slices.IndexFunc(table, func(s server.Setting) bool { return s.Flag == flag })
	if i < 0 {
		t.Fatalf("there is no setting %s", flag)
	}
	return table[i]
}

// TestCompletion completes the values of each setting.
func TestCompletion(t *testing.T) {
	for _, setting := range server.Table() {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), []string{"__complete", "serve", "--" + setting.Flag, ""}, nil, &stdout, &stderr)
		directive := map[server.Type]string{server.File: ":0", server.Folder: ":16"}[setting.Kind.Type]
		if directive == "" {
			directive = ":4" // no files
		}
		want := append(slices.Clone(setting.Kind.Words), directive)
		if got := strings.Fields(stdout.String()); code != 0 || !slices.Equal(got, want) {
			t.Errorf("--%s: exit code %d, %q, want %q", setting.Flag, code, got, want)
		}
	}
}

// placeholder is one kind of value or several, and then perhaps words that are values.
var placeholder = regexp.MustCompile(`^([A-Z:=]+(\|[A-Z]+)*(\|[a-z0]+)*|[a-z]+(\|[a-z]+)+)$`)

// TestPlaceholders checks what --help shows for the value of each flag.
func TestPlaceholders(t *testing.T) {
	var check func(commands []*cobra.Command)
	check = func(commands []*cobra.Command) {
		for _, command := range commands {
			command.Flags().VisitAll(func(f *pflag.Flag) {
				if name, _ := pflag.UnquoteUsage(f); f.Value.Type() != "bool" && !placeholder.MatchString(name) {
					t.Errorf("%s --%s %s: the placeholder is no kind of value", command.CommandPath(), f.Name, name)
				}
			})
			check(command.Commands())
		}
	}
	check(commands())
}

// rows returns the matches of a pattern in a file, the groups of each joined by spaces.
func rows(t *testing.T, name, pattern string) []string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
		rows = append(rows, strings.Join(match[1:], " "))
	}
	return rows
}
