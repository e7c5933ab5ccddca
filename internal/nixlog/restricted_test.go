package nixlog

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

// TestRestricted reads, in either form, what Nix 2.34 says of settings that it ignores.
func TestRestricted(t *testing.T) {
	lines := []string{
		"warning: ignoring the client-specified setting 'build-dir', because it is a restricted setting and you are not a trusted user",
		"warning: ignoring untrusted substituter 'http://foo', you are not a trusted user.",
		"warning: ignoring the client-specified setting 'trusted-public-keys', because it is a restricted setting and you are not a trusted user",
		"warning: ignoring the client-specified setting 'build-dir', because it is a restricted setting and you are not a trusted user",
		"warning: ignoring dirty tree",
		"warning: ignoring untrusted flake configuration setting 'extra-substituters'.",
		"warning: ignoring untrusted flake configuration setting 'bash-prompt'.",
	}
	want := []string{"build-dir", "substituters", "trusted-public-keys"}
	for form, read := range map[string]func(*Log){
		"for programs": func(l *Log) {
			var records strings.Builder
			for _, line := range lines {
				records.WriteString(`{"action":"msg","level":1,"msg":"` + line + `"}` + "\n")
			}
			l.Read(strings.NewReader(records.String()))
		},
		"for people": func(l *Log) {
			r := l.Lines()
			r.Write([]byte(strings.Join(lines, "\n") + "\n"))
			r.End(true)
		},
	} {
		log := New(func(schemas.Event) {}, nixstore.Files{}, func() *redact.Redactor { return redact.New() })
		read(log)
		log.Close()
		if diff := cmp.Diff(want, log.Restricted()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", form, diff)
		}
		if diff := cmp.Diff([]string{"bash-prompt", "extra-substituters"}, log.Untrusted()); diff != "" {
			t.Errorf("of a flake, %s (-want +got):\n%s", form, diff)
		}
	}
}

// However many settings a program of the job invents, 100 names are kept.
func TestManyRestricted(t *testing.T) {
	var lines []string
	for n := range 300 {
		lines = append(lines, "warning: ignoring the client-specified setting '"+strings.Repeat("x", n+1)+"', because it is a restricted setting")
	}
	log := newTestLog()
	log.Read(strings.NewReader(say(lines...)))
	log.Close()
	if got := log.Restricted(); len(got) != 100 {
		t.Errorf("%d names are kept", len(got))
	}
}
