package main

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A goroutine has the labels of the one that started it. So those of one server are told from
// those of others, and of the tests, also while several run.
const serverLabel = "server"

// labelled runs a server under its label.
func labelled(ctx context.Context, instance string, serve func(ctx context.Context)) {
	pprof.Do(ctx, pprof.Labels(serverLabel, instance), serve)
}

// goroutines returns the first function of each goroutine of a server in this process, and
// where they all are now. Those of connections to the engine that are being made, or kept for
// the next call, do not count: they are none of a job's.
func (s *server) goroutines() (names []string, stacks string) {
	var profile bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&profile, 1)
	label := fmt.Sprintf("%q:%q", serverLabel, s.instance)
	for group := range strings.SplitSeq(profile.String(), "\n\n") {
		if !strings.Contains(group, label) || strings.Contains(group, "net/http.(*persistConn).") ||
			strings.Contains(group, "net/http.(*Transport).startDialConn") {
			continue
		}
		var n int
		fmt.Sscanf(group, "%d @", &n)
		// Each line: a mark, the address, the function and where in it, its file.
		lines := strings.Split(strings.TrimSpace(group), "\n")
		name, _, _ := strings.Cut(strings.Fields(lines[len(lines)-1])[2], "+")
		names = append(names, slices.Repeat([]string{name}, n)...)
		stacks += group + "\n\n"
	}
	slices.Sort(names)
	return names, stacks
}

// idle returns the goroutines of a server that has had no job yet, when it is up.
func (s *server) idle(t *testing.T) (names []string) {
	t.Helper()
	var stacks string
	has := func(part string) bool { return strings.Contains(stacks, part) }
	if err := poll(30*time.Second, func() bool {
		names, stacks = s.goroutines()
		return has(".serveHTTP.") && has(".tend+") && !has("/images.") // it is done with the image
	}); err != nil {
		t.Fatalf("none waits for clients, or none for something to tend: %s", stacks)
	}
	return names
}

// wantGoroutines checks that a server comes to have these goroutines and no others.
func wantGoroutines(t *testing.T, s *server, want []string) {
	t.Helper()
	var there []string
	var stacks string
	if err := poll(30*time.Second, func() bool { there, stacks = s.goroutines(); return slices.Equal(want, there) }); err != nil {
		t.Errorf("goroutines (-want +there):\n%s\n%s", cmp.Diff(want, there), stacks)
	}
}
