package jobrun

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"iglu.sh/builder/internal/jobwire"
)

// TestUsage reads control groups of both versions, and the usage without one.
func TestUsage(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  jobwire.Usage
	}{
		"v2": {map[string]string{"memory.peak": "1048576\n", "cpu.stat": "usage_usec 1500000\nuser_usec 1\nsystem_usec 2\n"},
			jobwire.Usage{PeakMemory: 1 << 20, CPUSeconds: 1.5}},
		"v1": {map[string]string{"memory/memory.max_usage_in_bytes": "2097152\n", "cpuacct/cpuacct.usage": "2500000000\n", "cpu/cpu.stat": "nr_periods 7\n"},
			jobwire.Usage{PeakMemory: 2 << 20, CPUSeconds: 2.5}},
	} {
		root := t.TempDir()
		for file, content := range test.files {
			path := filepath.Join(root, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := usageOf(root); *got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
	ended := endedProcesses()
	if got := usageOf(t.TempDir()); got.PeakMemory != ended.Maxrss<<10 {
		t.Errorf("without a control group: %+v", got)
	}
}

// TestPushMeter changes the progress quickly: it is reported at intervals, and at the end.
func TestPushMeter(t *testing.T) {
	const token = "token"
	var written bytes.Buffer
	m := &pushMeter{reporter: reporter{jobwire.NewWriter(&written, token)}}
	begun := time.Now()
	for n := range 1000 {
		m.set(n, 999, int64(n)*10)
	}
	m.end()
	var notes []jobwire.Record
	jobwire.NewDemuxer(&bytes.Buffer{}, token, func(n jobwire.Record) { notes = append(notes, n) }).Write(written.Bytes())
	most := 2 + int(time.Since(begun)/pushInterval)
	if n := len(notes); n < 2 || n > most+1 {
		t.Fatalf("%d notes, at most %d", n, most+1)
	}
	const want = `{"type":"push","paths":{"done":999,"expected":999},"bytes":9990}`
	last, sum := notes[len(notes)-2], notes[len(notes)-1]
	if string(last.Event) != want || sum.Pushed == nil || sum.Pushed.Paths != 999 || sum.Pushed.Bytes != 9990 {
		t.Errorf("the last notes are %s and %+v", last.Event, sum.Pushed)
	}
}

func TestTellsPrograms(t *testing.T) {
	for version, want := range map[string]bool{
		"nix (Nix) 2.34.8":                    true,
		"nix (Nix) 2.30.0":                    true,
		"nix (Nix) 3.0.1":                     true,
		"nix (Nix) 2.31pre20250712_b1245123":  true,
		"nix (Nix) 2.29.1":                    false,
		"nix (Nix) 2.26.3":                    false,
		"/nix/store/0-nix-2.32.6/bin/nix":     true,
		"/nix/store/0-nix-2.24.10/bin/nix":    false,
		"nix (Lix, like Nix) 2.93.0":          false,
		"nix (Determinate Nix 3.14.0) 2.32.4": true,
		"nix (Determinate Nix 3.6.5) 2.29.0":  false,
		// It has a version of its own, so its Nix is asked.
		"/nix/store/0-determinate-nix-3.6.5/bin/nix": false,
		"":                                      false,
		"/nix/var/nix/profiles/default/bin/nix": false,
	} {
		if got := hasJSONLog(versionIn(version), "nix"); got != want {
			t.Errorf("%q: %v", version, got)
		}
		if hasJSONLog(versionIn(version), "/bin/nix-build") {
			t.Errorf("%q: nix-build does", version)
		}
		if got := hasJSONLog(versionIn(version), "nix-fast-build"); got != want {
			t.Errorf("%q: a program that runs nix: %v", version, got)
		}
	}
}
