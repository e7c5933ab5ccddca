package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestTwoHundredJobs runs them in a row: nothing is more afterwards, on the engine
// or in the server.
func TestTwoHundredJobs(t *testing.T) {
	one := func() { wantExit(t, do(t, world.server, command("nix --version")), 0) }
	one() // what is made once for all jobs is there now
	wantNoContainers(t, world.server)
	before := countAll(t)
	for range 200 {
		one()
	}
	var after string
	if err := poll(5*time.Second, func() bool { after = countAll(t); return after == before }); err != nil {
		t.Errorf("before: %s\nafter:  %s", before, after)
	}
}

// countAll counts what a job could leave behind.
func countAll(t *testing.T) string {
	t.Helper()
	var counts []string
	for _, kind := range []string{"container", "volume", "network"} {
		args := []string{kind, "ls", "--quiet"}
		if kind == "container" {
			args = append(args, "--all")
		}
		// Other tests use the engine at the same time.
		args = append(args, "--filter", "label=sh.iglu.builder.instance="+world.server.instance)
		counts = append(counts, fmt.Sprintf("%d %ss", len(strings.Fields(docker(t, args...))), kind))
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s, %d goroutines, %d files", strings.Join(counts, ", "), runtime.NumGoroutine(), len(files))
}

// TestManyClientsInARow lets clients come and go in every way that is not a job.
func TestManyClientsInARow(t *testing.T) {
	wantFree(t, world.server) // what is made once for all jobs is there now
	wantNoContainers(t, world.server)
	before := countAll(t)
	for n := range 100 {
		c := connect(t, world.server)
		switch n % 3 {
		case 0:
			c.conn.NetConn().Close()
		case 1:
			c.conn.Close()
		case 2:
			c.send("{")
			if got := c.finish(); len(got.messages) != 1 {
				t.Errorf("client %d got %+v", n, got)
			}
			c.conn.Close()
		}
	}
	wantFree(t, world.server)
	var after string
	if err := poll(5*time.Second, func() bool { after = countAll(t); return after == before }); err != nil {
		t.Errorf("before: %s\nafter:  %s", before, after)
	}
}
