package server

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/agent"
	"iglu.sh/builder/internal/buildid"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/stores"
)

// names are what a name server knows. One that is away answers nobody. Names without addresses cannot be looked up.
type names map[string][]string

func (n names) LookupHost(_ context.Context, host string) ([]string, error) {
	if found, ok := n[host]; n == nil || ok && found == nil {
		return nil, &net.DNSError{Err: "server misbehaving", Name: host, IsTemporary: true}
	}
	if found := n[host]; found != nil {
		return found, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// TestResolve looks up names that stand for one agent, several, and none.
func TestResolve(t *testing.T) {
	known := names{"tasks.agent": {"10.0.1.2", "10.0.1.3"}, "node-9": {"fd00::9"}, "192.0.2.1": {"192.0.2.1"}}
	got, failures := resolve(t.Context(), known, []string{"tasks.agent:2376", "gone:2376", "node-9:1", "192.0.2.1:2"})
	want := [][]string{{"10.0.1.2:2376", "10.0.1.3:2376"}, nil, {"[fd00::9]:1"}, {"192.0.2.1:2"}}
	if diff := cmp.Diff(want, got); diff != "" || errors.Join(failures...) != nil {
		t.Errorf("%v (-want +got):\n%s", failures, diff)
	}
	var dns *net.DNSError
	if got, failures := resolve(t.Context(), names(nil), []string{"tasks.agent:2376"}); !errors.As(failures[0], &dns) {
		t.Errorf("of a name server that is away: %q, %v", got, failures)
	}
	known["broken"] = nil
	got, failures = resolve(t.Context(), known, []string{"broken:1", "node-9:1"})
	if diff := cmp.Diff([][]string{nil, {"[fd00::9]:1"}}, got); diff != "" || !errors.As(failures[0], &dns) || failures[1] != nil {
		t.Errorf("of two names, one of which cannot be looked up: %v (-want +got):\n%s", failures, diff)
	}
}

// TestNodes reads the setting, which takes no node without keys.
func TestNodes(t *testing.T) {
	for _, wrong := range []string{"node-1", "tcp://node-1:2376", "node-1:2376,", ":2376", "node-1:0", "node-1:x"} {
		if got, err := parseNodes(wrong); err == nil {
			t.Errorf("%q is %q", wrong, got)
		}
	}
	nodes, err := parseNodes("node-1:2376, [fd00::1]:2376")
	if err != nil || len(nodes) != 2 {
		t.Fatalf("%q, %v", nodes, err)
	}
	folder := t.TempDir()
	if err := agent.MakeKeys(folder, nil); err != nil {
		t.Fatal(err)
	}
	silent := slog.New(slog.DiscardHandler)
	if _, err := (&Settings{Nodes: nodes}).openFleet(ownProgram{}, t.TempDir(), silent); err == nil || !strings.HasPrefix(err.Error(), "IGLU_NODES is set, and IGLU_AGENT_KEYS is not") {
		t.Errorf("without keys: %v", err)
	}
	f, err := (&Settings{Nodes: nodes, AgentKeys: filepath.Join(folder, "server")}).openFleet(ownProgram{}, t.TempDir(), silent)
	if err != nil || f.one != nil || f.cluster == nil {
		t.Errorf("with keys: %+v, %v", f, err)
	}
}

// TestClosedEngines opens the engines of nodes that change their addresses, as those of a Docker Swarm do. The fleet
// forgets an engine that is closed, and keeps the next one at its address.
func TestClosedEngines(t *testing.T) {
	folder, _ := makeKeys(t)
	s := &Settings{Nodes: []string{"tasks.agent:2376"}, AgentKeys: filepath.Join(folder, "server")}
	f, err := s.openFleet(ownProgram{}, t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	open := func(address string) engine.Engine {
		t.Helper()
		e, err := f.cluster.Open(address)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	before, other := open("10.0.1.2:2376"), open("10.0.1.3:2376")
	again := open("10.0.1.2:2376")
	for _, step := range []struct {
		close engine.Engine
		want  int
	}{{before, 2}, {other, 1}, {other, 1}, {again, 0}} {
		if err := step.close.Close(); err != nil {
			t.Error(err)
		}
		if len(f.engines) != step.want {
			t.Errorf("%d engines are known, want %d", len(f.engines), step.want)
		}
	}
	if _, err := f.cluster.Program(t.Context(), "10.0.1.2:2376", ownPlatform); err == nil {
		t.Error("an engine that is closed has a program")
	}
}

// makeKeys makes keys in a folder, and returns those of an agent.
func makeKeys(t *testing.T) (folder string, ofAgent *agent.Keys) {
	t.Helper()
	folder = t.TempDir()
	if err := agent.MakeKeys(folder, nil); err != nil {
		t.Fatal(err)
	}
	ofAgent, err := agent.ReadKeys(filepath.Join(folder, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	return folder, ofAgent
}

// TestDraining asks a real agent whether it drains: one that runs, one that was asked to stop, and the next at
// the same address.
func TestDraining(t *testing.T) {
	folder, keys := makeKeys(t)
	s := &Settings{Nodes: []string{"node-1:2376"}, AgentKeys: filepath.Join(folder, "server")}
	f, err := s.openFleet(ownProgram{}, t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	address := "127.0.0.1:0"
	wants := func(want bool) {
		t.Helper()
		if got, err := f.cluster.IsDraining(t.Context(), address); got != want || err != nil {
			t.Errorf("it drains: %t, %v", got, err)
		}
	}
	for range 2 {
		listens, asked := make(addresses, 1), make(chan struct{})
		ctx, stop := context.WithCancel(t.Context())
		force, end := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			ended <- agent.Serve(ctx, force, agent.Options{Listen: address, Keys: keys, Socket: "/nonexistent", Grace: time.Hour,
				Running: func(context.Context) (bool, error) {
					select {
					case asked <- struct{}{}:
					case <-force.Done():
					}
					return true, nil
				},
			}, slog.New(slog.NewTextHandler(listens, nil)))
		}()
		address = <-listens
		wants(false)
		stop()
		<-asked
		wants(true)
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := f.cluster.IsDraining(t.Context(), address); err == nil {
			t.Error("an agent that has ended answers")
		}
	}
}

// TestProgram asks for the programs of nodes: on the server's own platform it is the server's, and on another that of
// the agent there, if that is of the server's version.
func TestProgram(t *testing.T) {
	folder, keys := makeKeys(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	buildID, err := buildid.Of(program)
	if err != nil || buildID == "" {
		t.Fatalf("%q, %v", buildID, err)
	}
	address := serveProgram(t, keys, program)
	programs := filepath.Join(folder, "programs")
	for _, test := range []struct{ version, platform, buildID, err string }{
		{"1.2.3", ownPlatform, "own", ""},
		{"1.2.3", "linux/other", buildID, ""},
		{"1.2.4", ownPlatform, "own", ""},
		{"1.2.4", "linux/other", "", "it runs linux/other, and the agent's version is 1.2.3: start an agent of this server's version there, 1.2.4"},
	} {
		s := &Settings{Nodes: []string{address}, AgentKeys: filepath.Join(folder, "server")}
		f, err := s.openFleet(ownProgram{"/nonexistent", "own", test.version}, programs, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if files, err := os.ReadDir(programs); err == nil {
			t.Errorf("a server that starts leaves %d programs of its last life", len(files))
		}
		e, err := f.cluster.Open(address)
		if err != nil {
			t.Fatal(err)
		}
		got, err := f.cluster.Program(t.Context(), address, test.platform)
		if got != test.buildID || (err == nil) != (test.err == "") || err != nil && err.Error() != test.err {
			t.Errorf("%s on %s: %q, %v", test.version, test.platform, got, err)
		}
		kept, _ := filepath.Glob(filepath.Join(programs, "*"))
		for _, file := range kept {
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if again, err := f.cluster.Program(t.Context(), address, test.platform); again != test.buildID || err != nil {
				t.Errorf("the server reads the program: %q, %v", again, err)
			}
		}
		e.Close()
	}
}

// TestKeptPrograms changes the programs of two agents again and again. Only the last of each is kept.
func TestKeptPrograms(t *testing.T) {
	folder, keys := makeKeys(t)
	files := []string{filepath.Join(folder, "first"), filepath.Join(folder, "second")}
	s, programs := &Settings{AgentKeys: filepath.Join(folder, "server")}, filepath.Join(folder, "programs")
	for _, file := range files {
		s.Nodes = append(s.Nodes, serveProgram(t, keys, file))
	}
	program, err := os.ReadFile(writeProgram(t, elf.PT_LOAD))
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.openFleet(ownProgram{"/nonexistent", "own", "1.2.3"}, programs, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range s.Nodes {
		e, err := f.cluster.Open(address)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
	}
	for _, step := range []struct {
		node int
		end  string // of the program
		kept int
	}{{0, "a", 1}, {0, "b", 1}, {0, "b", 1}, {1, "b", 1}, {0, "c", 2}, {1, "d", 2}, {1, "c", 1}} {
		if err := os.WriteFile(files[step.node], append(program, step.end...), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.cluster.Program(t.Context(), s.Nodes[step.node], "linux/other"); err != nil {
			t.Error(err)
		}
		kept, err := filepath.Glob(filepath.Join(programs, "*"))
		if err != nil || len(kept) != step.kept {
			t.Errorf("after %q of node %d, %d programs are kept, want %d", step.end, step.node, len(kept), step.kept)
		}
	}
}

// serveProgram starts an agent with a program, and returns its address.
func serveProgram(t *testing.T, keys *agent.Keys, program string) (address string) {
	t.Helper()
	listens, ended := make(addresses, 1), make(chan error)
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		ended <- agent.Serve(ctx, ctx, agent.Options{Listen: "127.0.0.1:0", Keys: keys, Socket: "/nonexistent", Program: program, Version: "1.2.3",
			Running: func(context.Context) (bool, error) { return false, nil }}, slog.New(slog.NewTextHandler(listens, nil)))
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return <-listens
}

// addresses gets those on which an agent listens, from its log.
type addresses chan string

func (a addresses) Write(line []byte) (int, error) {
	if _, rest, ok := strings.Cut(string(line), "msg=listening addr="); ok {
		address, _, _ := strings.Cut(rest, " ")
		a <- address
	}
	return len(line), nil
}

// TestNameWithoutAddress looks names up again and again, one of which has no address for a while, for example because it is
// misspelt. The log says so once, and when it has one again.
func TestNameWithoutAddress(t *testing.T) {
	var log bytes.Buffer
	known := names{"node-1": {"192.0.2.1"}, "node-2": {"192.0.2.2"}}
	f := finder{resolver: known, names: []string{"node-1:2376", "nod-2:2376"}, log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: withoutTime}))}
	find := func(want ...string) {
		t.Helper()
		for range 3 {
			if got, err := f.find(t.Context()); err != nil || !slices.Equal(got, want) {
				t.Errorf("found %q, want %q, %v", got, want, err)
			}
		}
	}
	find("192.0.2.1:2376")
	known["nod-2"] = []string{"192.0.2.7"}
	find("192.0.2.1:2376", "192.0.2.7:2376")
	const want = `level=WARN msg="a name in IGLU_NODES has no address" name=nod-2:2376
level=INFO msg="a name in IGLU_NODES has an address now" name=nod-2:2376
`
	if diff := cmp.Diff(want, log.String()); diff != "" {
		t.Errorf("its log (-want +got):\n%s", diff)
	}
}

// TestNameWithManyAddresses looks a name up that has more addresses than are used, in another order each time. The log says
// so once.
func TestNameWithManyAddresses(t *testing.T) {
	var log bytes.Buffer
	var all []string
	for i := range maxAddresses + 100 {
		all = append(all, fmt.Sprintf("10.0.%d.%d", 100+i/100, 100+i%100))
	}
	known := names{"tasks.agent": all}
	f := finder{resolver: known, names: []string{"tasks.agent:1"}, log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: withoutTime}))}
	for range 3 {
		slices.Reverse(all)
		got, err := f.find(t.Context())
		if err != nil || len(got) != 1000 || got[0] != "10.0.100.100:1" || got[999] != "10.0.109.199:1" {
			t.Errorf("found %d addresses, %q, %v", len(got), got, err)
		}
	}
	const want = `level=WARN msg="a name in IGLU_NODES has too many addresses: no others than these are used" name=tasks.agent:1 used=1000
`
	if diff := cmp.Diff(want, log.String()); diff != "" {
		t.Errorf("its log (-want +got):\n%s", diff)
	}
}

// TestNameNotLookedUp cannot look up one of two names. It has the addresses that were found last, and those of the other
// name change all the same.
func TestNameNotLookedUp(t *testing.T) {
	known := names{"broken": nil, "tasks.agent": {"10.0.1.2", "10.0.1.3"}}
	f := finder{resolver: known, names: []string{"broken:1", "tasks.agent:2"}, log: slog.New(slog.DiscardHandler)}
	find := func(fails bool, want ...string) {
		t.Helper()
		if got, err := f.find(t.Context()); (err != nil) != fails || !slices.Equal(got, want) {
			t.Errorf("found %q, want %q, %v", got, want, err)
		}
	}
	find(true, "10.0.1.2:2", "10.0.1.3:2")
	known["tasks.agent"] = []string{"10.0.1.3", "10.0.1.4"}
	find(true, "10.0.1.3:2", "10.0.1.4:2")
	known["broken"] = []string{"192.0.2.1"}
	find(false, "192.0.2.1:1", "10.0.1.3:2", "10.0.1.4:2")
	known["broken"] = nil
	known["tasks.agent"] = []string{"10.0.1.4"}
	find(true, "192.0.2.1:1", "10.0.1.4:2")
	delete(known, "broken") // the name does not exist any more
	find(false, "10.0.1.4:2")
	known["broken"] = nil
	find(true, "10.0.1.4:2")
}

// slowNames are names of which the first is looked up when the second was.
type slowNames struct{ second chan struct{} }

func (n slowNames) LookupHost(ctx context.Context, host string) ([]string, error) {
	if host == "second" {
		close(n.second)
		return []string{"192.0.2.2"}, nil
	}
	select {
	case <-n.second:
	case <-ctx.Done():
	}
	return nil, ctx.Err()
}

// TestSlowName looks up two names. A name server can take half a minute to fail, and the other names do not wait for that.
func TestSlowName(t *testing.T) {
	for what, find := range map[string]func(ctx context.Context, r resolver, names []string) int{
		"the server": func(ctx context.Context, r resolver, names []string) int {
			found, _ := (&finder{resolver: r, names: names, log: slog.New(slog.DiscardHandler)}).find(ctx)
			return len(found)
		},
		"a command": func(ctx context.Context, r resolver, names []string) int {
			found, _ := openNodes(ctx, r, names, stores.Options{}, func(string) (orchestrator.Unused, error) { return openable{}, nil })
			return len(found)
		},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				if n := find(ctx, slowNames{make(chan struct{})}, []string{"first:1", "second:1"}); n != 1 || ctx.Err() != nil {
					t.Errorf("%d are found, %v", n, ctx.Err())
				}
			})
		})
	}
}

// openable is an engine that answers.
type openable struct{ orchestrator.Unused }

func (openable) Info(context.Context) (engine.Info, error) { return engine.Info{ID: "ID"}, nil }
