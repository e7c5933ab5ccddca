package nixlog

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

const (
	failing   = "/nix/store/93s9qh4dv29fnalqrgc9pg8ks6w68cnd-fail-1.0.drv"
	dependent = "/nix/store/yf03hz333bd5qsyplkfvpvp491z4r3py-dep-1.0.drv"
)

func newTestLog() *Log {
	return New(func(schemas.Event) {}, nixstore.Files{Root: "testdata/nix/store/none"}, func() *redact.Redactor { return redact.New() })
}

// The records are from Nix 2.34.8.
func TestFailure(t *testing.T) {
	build := func(lines ...string) string {
		text := `{"action":"start","id":1,"type":104}` + "\n" + `{"action":"start","id":2,"type":105,"fields":["` + failing + `","",1,1]}` + "\n"
		for _, line := range lines {
			text += `{"action":"result","fields":["` + line + `"],"id":2,"type":101}` + "\n"
		}
		return text + `{"action":"stop","id":2}` + "\n"
	}
	const counted = `{"action":"result","fields":[0,1,0,1],"id":1,"type":105}` + "\n"
	failed := func(reason string) string {
		return `{"action":"msg","level":0,"msg":"\u001b[31;1merror:\u001b[0m Cannot build '\u001b[35;1m` + failing + `\u001b[0m'.","raw_msg":"Cannot build '\u001b[35;1m` +
			failing + `\u001b[0m'.\nReason: \u001b[31;1m` + reason + `\u001b[0m.\nOutput paths:\n  /nix/store/x"}` + "\n"
	}
	const dependency = `{"action":"msg","level":0,"msg":"error: Cannot build '` + dependent + `'.","raw_msg":"Cannot build '` + dependent + `'.\nReason: 1 dependency failed."}` + "\n"
	for name, test := range map[string]struct {
		records string
		want    Failure
	}{
		"a builder":             {build("one", `\u001b[31mtwo\u001b[0m`, "", " ") + failed("builder failed with exit code 3") + dependency, Failure{failing, "two"}},
		"counted before":        {build("one", "two") + counted + failed("builder failed with exit code 3") + dependency, Failure{failing, "two"}},
		"without a log":         {build() + failed("builder failed with exit code 4"), Failure{failing, "builder failed with exit code 4"}},
		"without a word":        {build("one") + counted, Failure{failing, "one"}},
		"not its builder's":     {build("one") + counted + failed("timed out after 10 seconds"), Failure{failing, "timed out after 10 seconds"}},
		"a success":             {build("one") + `{"action":"result","fields":[1,1,0,0],"id":1,"type":105}`, Failure{}},
		"what is cut off by it": {strings.Replace(build("one"), `{"action":"stop","id":2}`, "", 1), Failure{}},
		"a wrong hash": {build("fetching") + `{"action":"msg","level":0,"msg":"error: hash mismatch in fixed-output derivation '` + failing + `'","raw_msg":"hash mismatch in fixed-output derivation '\u001b[35;1m` +
			failing + `\u001b[0m':\n  specified: \u001b[35;1msha256-AAA=\u001b[0m\n     got:    \u001b[35;1msha256-BBB=\u001b[0m"}`,
			Failure{failing, "hash mismatch in fixed output, specified: sha256-AAA= got: sha256-BBB="}},
		"a wrong hash of a dependency": {build("fetching") + `{"action":"msg","level":0,"msg":"\u001b[31;1merror:\u001b[0m hash mismatch in fixed-output derivation '\u001b[35;1m` + failing +
			`\u001b[0m':\n         specified: \u001b[35;1msha256-AAA=\u001b[0m\n            got:    \u001b[35;1msha256-BBB=\u001b[0m"}`,
			Failure{failing, "hash mismatch in fixed output, specified: sha256-AAA= got: sha256-BBB="}},
		"evaluation": {`{"action":"msg","column":47,"file":"/x/a.nix:1:47","level":0,"line":1,"msg":"…","raw_msg":"attribute '\u001b[35;1mfoo\u001b[0m' missing"}`,
			Failure{"", "attribute 'foo' missing, at /x/a.nix:1:47"}},
		"evaluation without a place": {`{"action":"msg","file":"«none»:0","level":0,"msg":"…","raw_msg":"file 'nixpkgs' was not found\nmore"}`, Failure{"", "file 'nixpkgs' was not found"}},
		"a trace":                    {`{"action":"msg","level":0,"msg":"trace: evaluation warning: it is old"}`, Failure{}},
		"a warning of the daemon":    {`{"action":"msg","level":0,"msg":"\u001b[35;1mwarning:\u001b[0m unable to download 'https://x/nix-cache-info'; retrying in 300 ms"}`, Failure{}},
		"an error of the daemon":     {`{"action":"msg","level":0,"msg":"\u001b[31;1merror:\u001b[0m cannot open connection"}`, Failure{Text: "cannot open connection"}},
		"a warning":                  {`{"action":"msg","level":1,"msg":"warning: ignored"}`, Failure{}},
	} {
		t.Run(name, func(t *testing.T) {
			log := newTestLog()
			log.Read(strings.NewReader(test.records))
			log.Close()
			if got := log.Failure(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// If several derivations fail, the reason is the first failure. One with an error of Nix is preferred to one without.
func TestFirstFailure(t *testing.T) {
	const first, second = "/nix/store/00000000000000000000000000000001-1.drv", "/nix/store/00000000000000000000000000000002-2.drv"
	said := func(message string) string { return `{"action":"msg","level":0,"msg":"error: ` + message + `"}` }
	cannot := func(derivation, reason string) string {
		return said(`Cannot build '` + derivation + `'.\nReason: ` + reason + `.`)
	}
	counted := func(n int) string { return result(3, progress, fmt.Sprintf("0,2,0,%d", n)) }
	for name, test := range map[string]struct {
		records []string
		want    Failure
	}{
		"both with an error": {[]string{stops(1), cannot(first, "timed out"), stops(2), cannot(second, "ran out of disk")}, Failure{first, "timed out"}},
		"both without":       {[]string{stops(1), counted(1), stops(2), counted(2)}, Failure{first, ""}},
		"the second with":    {[]string{stops(1), counted(1), stops(2), cannot(second, "timed out")}, Failure{second, "timed out"}},
		"the first with":     {[]string{stops(1), cannot(first, "timed out"), stops(2), counted(2)}, Failure{first, "timed out"}},
		"the first's error follows": {
			[]string{stops(1), counted(1), cannot(first, "timed out"), stops(2), cannot(second, "ran out of disk")}, Failure{first, "timed out"},
		},
		"two errors about it":                 {[]string{stops(1), cannot(first, "timed out"), cannot(first, "1 dependency failed")}, Failure{first, "timed out"}},
		"a later error that only sums up":     {[]string{stops(1), counted(1), said("build of '" + first + "', '" + second + "' failed")}, Failure{first, ""}},
		"a timeout":                           {[]string{stops(1), counted(1), said("timed out after 10 seconds")}, Failure{first, "timed out after 10 seconds"}},
		"a timeout of one of two":             {[]string{stops(1), counted(1), stops(2), counted(2), said("timed out after 10 seconds")}, Failure{first, ""}},
		"a later error that is not its":       {[]string{stops(1), counted(1), said("cannot connect to the daemon")}, Failure{first, ""}},
		"an earlier error that is no build's": {[]string{said("cannot connect"), stops(1), cannot(first, "timed out")}, Failure{first, "timed out"}},
	} {
		log := newTestLog()
		records := append([]string{starts(3, builds), starts(1, build), starts(2, build)}, test.records...)
		log.Read(strings.NewReader(strings.Join(records, "\n") + "\n"))
		log.Close()
		if got := log.Failure(); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

// A derivation whose build does not start is the reason, not one that Nix kills because of it. It is counted as failed like
// any other.
func TestRefused(t *testing.T) {
	const (
		refused = "/nix/store/00000000000000000000000000000003-3.drv"
		said    = `{"action":"msg","level":0,"msg":"error: Cannot build '` + refused + `'.\n       Reason: required system or feature not available\n       Required system: 'x86_64-linux' with features {kvm}"}`
		top     = `{"action":"msg","level":0,"msg":"error: x","raw_msg":"Cannot build '` + dependent + `'.\nReason: 2 dependencies failed.\nOutput paths:\n  /nix/store/x"}`
	)
	counted, built := result(9, progress, "0,3,1,1"), result(9, progress, "1,3,0,1")
	want := Failure{refused, "required system or feature not available"}
	for name, test := range map[string]struct {
		records []string
		state   string // of the one that was running
	}{
		"another is killed":                     {[]string{counted, stops(1), said, top}, "failed"},
		"the error comes first":                 {[]string{counted, said, top, stops(1)}, "failed"},
		"another is built":                      {[]string{counted, said, built, stops(1), top}, "built"},
		"another is built, and errors are last": {[]string{counted, built, stops(1), said, top}, "built"},
	} {
		l, reported := events(t)
		l.Read(strings.NewReader(strings.Join(append([]string{starts(9, builds), starts(1, build), result(1, buildLogLine, `"a line"`)}, test.records...), "\n")))
		if got := l.Failure(); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
		if got := inShort(*reported); !strings.HasPrefix(got[len(got)-1], test.state) {
			t.Errorf("%s: %q, want %s", name, got, test.state)
		}
	}
}

// The error that a dependency has failed says less than the one before it.
func TestMissingDependency(t *testing.T) {
	l, _ := events(t)
	l.Read(strings.NewReader(`{"action":"msg","level":0,"msg":"error: path '/nix/store/x' is required, but there is no substituter that can build it"}` + "\n" +
		`{"action":"msg","level":0,"msg":"error: Cannot build '` + dependent + `'.\n       Reason: 1 dependency failed."}`))
	if got, want := l.Failure(), (Failure{Text: "path '/nix/store/x' is required, but there is no substituter that can build it"}); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A real log, in which derivation b fails while another is built.
func TestFailureInRealLog(t *testing.T) {
	file, err := os.Open(filepath.Join("testdata", "failing.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	log := newTestLog()
	log.Read(file)
	log.Close()
	if got, want := log.Failure(), (Failure{"/nix/store/gyjff667gg1d2md2w1wmf7n4z135byiw-b.drv", "line 29"}); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What nix-build prints.
func TestFailureInLines(t *testing.T) {
	const cannot = "error: Cannot build '" + failing + "'.\n       Reason: required system or feature not available\n" +
		"       Required system: 'x86_64-linux' with features {kvm}\nerror: Cannot build '" + dependent + "'.\n       Reason: 1 dependency failed.\n"
	for name, test := range map[string]struct{ printed, want string }{
		"refused":        {cannot, "required system or feature not available"},
		"evaluation":     {"error: attribute 'foo' missing\n       at /x/a.nix:1:47:\n", "attribute 'foo' missing"},
		"with its trace": {"error:\n       … while calling the 'import' builtin\n\n       error: file 'nixpkgs' was not found\n", "file 'nixpkgs' was not found"},
		"another system": {"error: a 'x' with features {} is required to build '" + failing + "', but I am a 'y' with features {}\n" +
			"error: 1 dependencies of derivation '" + dependent + "' failed to build\n", "a 'x' with features {} is required to build '" + failing + "', but I am a 'y' with features {}"},
		"several":    {"error: path '/nix/store/x' does not exist\nerror: build of '" + failing + "', '" + dependent + "' failed\n", "path '/nix/store/x' does not exist"},
		"checks":     {"error: attribute 'foo' missing\nerror: some errors were encountered during the evaluation\n", "attribute 'foo' missing"},
		"only vague": {"error: build of '" + failing + "' failed\n", "build of '" + failing + "' failed"},
		"success":    {"this derivation will be built:\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			log := newTestLog()
			lines := log.Lines()
			lines.Write([]byte(test.printed))
			lines.End(test.want == "")
			log.Close()
			if got := log.Failure(); got.Text != test.want || (got.Derivation == failing) != (name == "refused") {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
