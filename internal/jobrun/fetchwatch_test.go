package jobrun

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestFetchWatch(t *testing.T) {
	type rate struct {
		received int64 // bytes in a second
		cpu      float64
	}
	for name, test := range map[string]struct {
		rates   []rate // of one minute after the other; the last goes on
		timeout time.Duration
		killed  []time.Duration // after so long
		over    bool
	}{
		"a server that sends":          {[]rate{{1000, 0}}, time.Hour, nil, false},
		"one that sends nothing":       {[]rate{{0, 0}}, time.Hour, []time.Duration{2 * time.Minute, 4 * time.Minute}, false},
		"one that stops":               {[]rate{{1000, 0}, {0, 0}}, time.Hour, []time.Duration{3 * time.Minute}, false},
		"one that pauses":              {[]rate{{1000, 0}, {0, 0}, {1000, 0}}, time.Hour, nil, false},
		"chatter of others":            {[]rate{{100, 0}}, time.Hour, []time.Duration{2 * time.Minute, 4 * time.Minute}, false},
		"git unpacks":                  {[]rate{{0, 0.9}}, time.Hour, nil, false},
		"what takes too long":          {[]rate{{1000, 0}}, 2*time.Minute + time.Second, []time.Duration{130 * time.Second}, true},
		"too long, and silent as well": {[]rate{{0, 0}}, time.Minute, []time.Duration{70 * time.Second}, true},
		"silent before it is too long": {[]rate{{0, 0}}, 150 * time.Second, []time.Duration{2 * time.Minute, 160 * time.Second}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				var killed []time.Duration
				w := watchFetch(test.timeout, func() { killed = append(killed, time.Since(begun)) })
				w.now = func() (sum effort) {
					for second := range int(time.Since(begun).Seconds()) {
						r := test.rates[min(second/60, len(test.rates)-1)]
						sum.received += r.received
						sum.cpu += time.Duration(r.cpu * float64(time.Second))
					}
					return sum
				}
				end := w.begin()
				time.Sleep(5*time.Minute - time.Second)
				end()
				if len(killed) != len(test.killed) || w.over() != test.over {
					t.Fatalf("killed after %v, over: %t; want %v, %t", killed, w.over(), test.killed, test.over)
				}
				for i := range killed {
					if killed[i] != test.killed[i] {
						t.Errorf("killed after %v, want %v", killed, test.killed)
					}
				}
			})
		})
	}
}

// TestFetchOfManyParts runs git again and again, as for submodules, each time for less than a step of the watch: no more of
// them begin when the time for the whole source is over.
func TestFetchOfManyParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchFetch(time.Minute, func() { t.Error("git is killed") })
		w.now = func() effort { return effort{} }
		g := git{watch: w, said: new(gitOutput)}
		begun, code := time.Now(), 0
		for n := 0; n < 100 && code == 0; n++ {
			code = g.watched(func() int {
				time.Sleep(fetchStep - time.Second)
				return 0
			})
		}
		if took := time.Since(begun); code != exitGit || took > time.Minute+fetchStep || !w.over() || g.because(code) != w.said() {
			t.Errorf("exit code %d after %s, over: %t, because: %s", code, took, w.over(), g.because(code))
		}
	})
}

func TestEffort(t *testing.T) {
	const dev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    1000      10    0    0    0     0          0         0     1000      10    0    0    0     0       0          0
  eth0: 5012345     100    0    0    0     0          0         0      200       2    0    0    0     0       0          0
  eth1:11         1    0    0    0     0          0         0      200       2    0    0    0     0       0          0
`
	if got := receivedBytes(dev); got != 5012356 {
		t.Errorf("%d bytes", got)
	}
	if got := receivedBytes(""); got != 0 {
		t.Errorf("%d bytes of nothing", got)
	}
	write := func(folder, name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(folder+name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(folder+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	two, one := t.TempDir(), t.TempDir()
	write(two, "/cpu.stat", "usage_usec 1500000\nuser_usec 1\n")
	write(one, "/cpuacct/cpuacct.usage", "2500000000\n")
	if got := usedCPU(two); got != 1500*time.Millisecond {
		t.Errorf("version 2: %s", got)
	}
	if got := usedCPU(one); got != 2500*time.Millisecond {
		t.Errorf("version 1: %s", got)
	}
	if got := usedCPU(t.TempDir()); got <= 0 {
		t.Errorf("neither: %s", got)
	}
}
