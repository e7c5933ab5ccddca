package jobrun

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/internal/redact"
)

// The output of git is passed on unchanged and in order, and the reason of a failure is kept.
func TestGitOutput(t *testing.T) {
	for _, test := range []struct{ printed, why string }{
		{"", ""},
		{"Cloning into '/source'...\nfatal: Authentication failed for 'http://host/'\n", "Authentication failed for 'http://host/'"},
		{"git@host: Permission denied (publickey).\r\nfatal: Could not read from remote repository.\n\nPlease make sure you have\nthe rights.\n\n",
			"git@host: Permission denied (publickey)."},
		{"fatal: Could not read from remote repository.\n", "Could not read from remote repository."},
		{"remote: Repository not found.\nfatal: repository 'http://host/' not found\nmore\n", "repository 'http://host/' not found"},
		{"error: disk full\nwithout an end", "without an end"},
		{strings.Repeat("x", maxGitLine+9) + "\n", strings.Repeat("x", maxGitLine)},
	} {
		var out bytes.Buffer
		o := &gitOutput{to: &out}
		code := o.of(func(to *os.File) int {
			io.Copy(to, iotest.OneByteReader(strings.NewReader(test.printed)))
			return 7
		})
		fmt.Fprintln(&out, "next")
		whole := test.printed
		if whole != "" && !strings.HasSuffix(whole, "\n") {
			whole += "\n"
		}
		if code != 7 || out.String() != whole+"next\n" {
			t.Errorf("code %d: %q", code, out.String())
		}
		if got := o.why(); got != test.why {
			t.Errorf("of %q: %q, want %q", test.printed, got, test.why)
		}
	}
}

// The reason of a failure is one line without secrets, even if it is cut.
func TestFailureOfJob(t *testing.T) {
	secrets := redact.New("hunter2hunter2")
	var f failure
	f.set("Look at\nit.", strings.Repeat("x", maxReason-5)+" hunter2hunter2 \x1b[31mred\xff\n")
	end := jobwire.End{ExitCode: 1}
	f.complete(&end, secrets)
	if want := strings.Repeat("x", maxReason-5) + " *** …"; end.Reason != want || end.Advice != "Look at it." {
		t.Errorf("got  %q, %q\nwant %q", end.Reason, end.Advice, want)
	}
	f.set("", "a \x1b[31mred\xff\nline")
	f.complete(&end, secrets)
	if want := "a red\ufffd line"; end.Reason != want || end.Advice != "" {
		t.Errorf("got %q, %q, want %q", end.Reason, end.Advice, want)
	}
	for _, end := range []jobwire.End{{}, {ExitCode: 75, Unpushed: "2 paths"}} {
		before := end
		if f.complete(&end, secrets); end != before {
			t.Errorf("of %+v: %+v", before, end)
		}
	}
}

// So is the report of what could not be pushed: it has errors of the cache, and names of files.
func TestUnpushedOfJob(t *testing.T) {
	secrets := redact.New("hunter2hunter2")
	for text, want := range map[string]string{
		"1 of 1 path: a: open a\niglu: job ended":              "1 of 1 path: a: open a iglu: job ended",
		strings.Repeat("x", maxUnpushed-5) + " hunter2hunter2": strings.Repeat("x", maxUnpushed-5) + " ***",
		strings.Repeat("x", maxUnpushed-1) + "é":               strings.Repeat("x", maxUnpushed-1) + "…",
	} {
		end := jobwire.End{ExitCode: 75, Unpushed: text}
		if new(failure).complete(&end, secrets); end.Unpushed != want {
			t.Errorf("of %.50q: %q, want %q", text, end.Unpushed[max(0, len(end.Unpushed)-50):], want[max(0, len(want)-50):])
		}
	}
}
