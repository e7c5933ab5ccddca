package jobrun

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/nixlog"
	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

func colorerTo(t *testing.T) (*colorer, writes) {
	t.Helper()
	to := make(writes, 10_000)
	c, err := newColorer(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	t.Cleanup(c.stderr.close)
	return c, to
}

// printed returns everything that was passed on.
func (w writes) printed() string {
	var all strings.Builder
	for len(w) > 0 {
		all.Write(<-w)
	}
	return all.String()
}

// Nix can log a line before the printed line is read, or after that, or without having printed it.
func TestColorer(t *testing.T) {
	const line, colored = "a> cold wall\n", "\x1b[2ma> \x1b[0m\x1b[36mcold\x1b[0m wall"
	want := colored + "\n"
	for _, early := range []bool{true, false} {
		c, to := colorerTo(t)
		c.logOpened()
		if early { // in the pipe
			c.stderr.in.WriteString(line)
		} else {
			c.Write([]byte(line))
		}
		c.show("\x1b[1mnot printed")
		c.show(colored)
		if got := to.printed(); got != want {
			t.Errorf("early %v: %q, want %q", early, got, want)
		}
	}
}

// Lines that are not in the log are passed on unchanged and in order, also half a line.
func TestColorerOrder(t *testing.T) {
	c, to := colorerTo(t)
	c.logOpened()
	c.Write([]byte("from git\nerror: no\n       wall\r\nrest\nhalf a"))
	c.show("\x1b[31;1merror:\x1b[0m no\n       \x1b[1mwall\x1b[0m")
	if got, want := to.printed(), "from git\n\x1b[31;1merror:\x1b[0m no\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	c.logClosed() // when no Nix is left, nothing waits
	if got, want := to.printed(), "       wall\r\nrest\nhalf a"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	c.Write([]byte(" line\n"))
	if got, want := to.printed(), " line\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	c.logOpened()
	c.Write([]byte("half of"))
	c.pass(len(c.pending))
	c.Write([]byte(" it\nred\n"))
	c.show("\x1b[31m it") // is no line
	c.show("\x1b[31mred")
	if got, want := to.printed(), "half of it\n\x1b[31mred\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Everything that is printed is passed on soon, even if the log is missing.
func TestColorerWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := make(writes, 100)
		c := &colorer{to: to}
		c.passing.L = &c.mu
		c.Write([]byte("first\n"))
		(follower{to, c.flush}).Write([]byte("result\n"))
		if got, want := to.printed(), "first\nresult\n"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		c.Write([]byte(strings.Repeat("x", maxUncolored) + "\ny"))
		if got := to.printed(); len(got) < maxUncolored/2 {
			t.Errorf("%d bytes have gone on", len(got))
		}
		c.flush()
		if got := to.printed(); !strings.HasSuffix(got, "x\ny") {
			t.Errorf("%d bytes have gone on", len(got))
		}
		// What Nix has told and is not taken yet may be of what waits.
		c.within, c.busy = false, 1
		c.Write([]byte("red\n"))
		time.Sleep(maxColorWait / 2)
		c.show("\x1b[31mred")
		if got, want := to.printed(), "\x1b[31mred\n"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		c.Write([]byte("blue\n"))
		c.flush() // but not for ever
		if got, want := to.printed(), "blue\n"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// BenchmarkColorer measures adding colours to lines of a builder, including reading the log.
func BenchmarkColorer(b *testing.B) {
	const drv = "/nix/store/583i0ywxjmbw3g9bzq59bpzy5hc4h6dh-wall-1.0.drv"
	for _, colors := range []bool{false, true} {
		b.Run(fmt.Sprint(colors), func(b *testing.B) {
			log := nixlog.New(func(schemas.Event) {}, nixstore.Files{}, func() *redact.Redactor { return redact.New() })
			c, err := newColorer(discard{})
			if err != nil {
				b.Fatal(err)
			}
			defer c.close()
			defer c.stderr.close()
			if colors {
				log.OnShown(c.show)
			}
			var records, lines strings.Builder
			fmt.Fprintf(&records, `{"action":"start","fields":[%q,"",1,1],"id":1,"level":3,"parent":0,"text":"building","type":105}`+"\n", drv)
			const each = 100
			for n := range each {
				fmt.Fprintf(&records, `{"action":"result","fields":["\u001b[36mcutting\u001b[0m block %d of house: \u001b[32mcold enough\u001b[0m"],"id":1,"type":101}`+"\n", n)
				fmt.Fprintf(&lines, "wall> cutting block %d of house: cold enough\n", n)
			}
			for b.Loop() {
				if colors {
					c.Write([]byte(lines.String()))
				}
				log.Read(strings.NewReader(records.String()))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*each), "ns/line")
		})
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
