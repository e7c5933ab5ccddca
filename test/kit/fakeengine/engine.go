// Package fakeengine is a fake container engine for tests of how the builder handles faults of an engine.
//
// [Start] returns an [Engine] that serves the HTTP API with the recorded answers of a real engine, from
// testdata. Its containers run a function of the test. [Engine.Break] makes a call fail, and [Engine.Left]
// returns what is left on the engine. Connections are in memory, so that it works with testing/synctest.
//
// A call that is not recorded fails the test. Record the answer of a real engine first, with recordengine.
package fakeengine

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
)

// An Engine is a fake engine that runs until its test ends. Set its fields before the first call.
type Engine struct {
	Run             func(*Process) int // the program of all containers; returns the exit code
	Arch            string             // the architecture of its machine
	SecurityOptions []string           // replace the recorded options if not nil
	NotEnforced     []string           // the fields of its information that say that it enforces a limit, and are false
	Missing         bool               // the image does not exist until it is pulled
	APIVersion      string             // the latest supported version; replaces the recorded one if not empty
	KeepOutput      bool               // the output of a container stays open after its end

	test    testing.TB
	answers answers
	accept  chan *conn
	closed  chan struct{}
	running sync.WaitGroup // processes, and calls that are being answered

	mu         sync.Mutex
	hangs      chan struct{} // closed when the engine answers again; nil if it does not hang
	paths      []string
	down       error // the error of new connections; nil if they are accepted
	conns      []*conn
	broken     []*breakage
	containers []*container
	volumes    map[string]*volume
	networks   []*network
	made       int // number of containers and networks made, for their IDs
}

// A container has the settings from the client and the current state.
type container struct {
	containertypes.Config
	HostConfig containertypes.HostConfig

	id, name    string
	state       string // created, running, exited
	code        int
	outOfMemory bool
	files       map[string][]byte
	attached    *conn
	run         *run
}

type volume struct {
	Name   string
	Labels map[string]string
	files  map[string][]byte
}

type network struct {
	Name    string
	Labels  map[string]string
	id      string
	created time.Time
}

// Start starts an engine with the answers of a recording. Nothing but the image is on it.
func Start(t testing.TB, recording string) *Engine {
	t.Helper()
	recorded, err := answersOf(recording)
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{
		Run: func(*Process) int { return 0 }, Arch: runtime.GOARCH,
		test: t, answers: recorded, accept: make(chan *conn), closed: make(chan struct{}), volumes: make(map[string]*volume),
	}
	server := &http.Server{Handler: e, ErrorLog: log.New(io.Discard, "", 0)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener{e}) }()
	t.Cleanup(func() {
		close(e.closed)
		e.die()
		server.Close()
		<-served
		e.running.Wait()
	})
	return e
}

var apiVersion = regexp.MustCompile(`^/v[0-9.]+`)

// ServeHTTP answers a call.
func (e *Engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.running.Add(1)
	defer e.running.Done()
	defer func() {
		if failed := recover(); failed != nil && failed != http.ErrAbortHandler {
			e.test.Errorf("%v", failed)
			panic(http.ErrAbortHandler)
		}
	}()
	if !e.reached(r) {
		return
	}
	path := apiVersion.ReplaceAllString(r.URL.Path, "")
	body := must2(io.ReadAll(r.Body))
	do := func() answer {
		for _, route := range routes {
			if match := route.path.FindStringSubmatch(r.Method + " " + path); match != nil {
				return route.do(e, request{r, match[len(match)-1], body})
			}
		}
		panic("fakeengine: no answer is recorded to " + r.Method + " " + path)
	}
	if b := e.due(r.Method + " " + path); b != nil {
		b.spoil(w, r, do)
		return
	}
	do().send(w, r)
}

// reached waits while the engine hangs, and reports whether the client still waits for an answer.
func (e *Engine) reached(r *http.Request) bool {
	e.mu.Lock()
	e.paths = append(e.paths, r.URL.Path)
	hangs := e.hangs
	e.mu.Unlock()
	if hangs == nil {
		return true
	}
	select {
	case <-hangs:
		return r.Context().Err() == nil
	case <-e.closed:
		return false
	}
}

// Paths returns the paths of all calls that were made.
func (e *Engine) Paths() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.paths)
}

// Left returns everything that is on the engine, one line per object.
func (e *Engine) Left() (left []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.containers {
		left = append(left, "container "+c.name+" "+c.state)
	}
	for _, v := range e.volumes {
		left = append(left, "volume "+v.Name)
	}
	for _, n := range e.networks {
		left = append(left, "network "+n.Name)
	}
	slices.Sort(left)
	return left
}

// MakeVolume makes a volume that exists before the builder starts.
func (e *Engine) MakeVolume(name string, labels map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.volumes[name] = &volume{name, labels, make(map[string][]byte)}
}

// MakeNetwork makes a network that exists before the builder starts.
func (e *Engine) MakeNetwork(name string, labels map[string]string) (id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id = e.newID()
	e.networks = append(e.networks, &network{name, labels, id, time.Now()})
	return id
}

// MakeContainer makes a container that exists before the builder starts. It is not running.
func (e *Engine) MakeContainer(name string, labels map[string]string) (id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := &container{id: e.newID(), name: name, state: "created", files: make(map[string][]byte), run: newRun()}
	c.Labels = labels
	e.containers = append(e.containers, c)
	return c.id
}

// Hold makes a foreign container use a volume.
func (e *Engine) Hold(volume string) {
	e.MakeContainer("holder-of-"+volume, nil)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[len(e.containers)-1].HostConfig.Mounts = []mount.Mount{{Type: mount.TypeVolume, Source: volume, Target: "/held"}}
}

// Containers returns the settings of all containers on the engine.
func (e *Engine) Containers() (all []containertypes.CreateRequest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.containers {
		all = append(all, containertypes.CreateRequest{Config: &c.Config, HostConfig: &c.HostConfig})
	}
	return all
}

// image returns the ID of the recorded image.
func (e *Engine) image() string {
	var image struct{ ID string }
	must(json.Unmarshal(e.answers["image-inspect"].body, &image))
	return image.ID
}
