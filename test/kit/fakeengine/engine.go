// Package fakeengine is a container engine for tests of what its callers do when it goes wrong. It
// speaks the HTTP API in the words of a real engine, which testdata holds, and keeps no more state
// than that it can say in the end what would be left on the engine. Its containers run a function of
// the test. Connections are in memory, so that it works within testing/synctest.
//
// A call that it does not know ends the test: what a real engine says to it has to be recorded
// first, with recordengine.
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

// An Engine is one that runs until its test ends. Fields are set before it is used.
type Engine struct {
	Run             func(*Process) int // what containers do, to their exit code
	Arch            string             // of its machine
	SecurityOptions []string           // in place of those that were recorded, if not nil
	Missing         bool               // the image is not there until it is pulled
	APIVersion      string             // the latest that it speaks, in place of the one that was recorded, if not empty
	KeepOutput      bool               // the output of a container does not end with it

	test    testing.TB
	answers answers
	accept  chan *conn
	closed  chan struct{}
	running sync.WaitGroup // processes, and calls that are being answered

	mu         sync.Mutex
	hangs      chan struct{} // closed when the engine goes on; nil if it does not hang
	paths      []string
	down       error // why no connection is accepted; nil if they are
	conns      []*conn
	broken     []*breakage
	released   chan struct{}
	containers []*container
	volumes    map[string]*volume
	networks   []*network
	made       int // containers and networks, for their IDs
}

// A container is as the client wants it, and what has become of it.
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

// Start starts an engine with the recorded answers of one, on which there is nothing but the image.
func Start(t testing.TB, recording string) *Engine {
	t.Helper()
	recorded, err := answersOf(recording)
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{
		Run: func(*Process) int { return 0 }, Arch: runtime.GOARCH,
		test: t, answers: recorded, accept: make(chan *conn), closed: make(chan struct{}), released: make(chan struct{}), volumes: make(map[string]*volume),
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

// reached waits while the engine hangs, and reports whether somebody waits for an answer then.
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

// Left returns what is on the engine: a line for each thing.
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

// MakeVolume makes a volume that was there before the test.
func (e *Engine) MakeVolume(name string, labels map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.volumes[name] = &volume{name, labels, make(map[string][]byte)}
}

// MakeNetwork makes a network that was there before the test.
func (e *Engine) MakeNetwork(name string, labels map[string]string) (id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id = e.newID()
	e.networks = append(e.networks, &network{name, labels, id, time.Now()})
	return id
}

// MakeContainer makes a container, which has not started, that was there before the test.
func (e *Engine) MakeContainer(name string, labels map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := &container{id: e.newID(), name: name, state: "created", files: make(map[string][]byte), run: newRun()}
	c.Labels = labels
	e.containers = append(e.containers, c)
}

// Hold has a container of somebody else use a volume.
func (e *Engine) Hold(volume string) {
	e.MakeContainer("holder-of-"+volume, nil)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[len(e.containers)-1].HostConfig.Mounts = []mount.Mount{{Type: mount.TypeVolume, Source: volume, Target: "/held"}}
}

// Containers returns how the containers that are there are set up.
func (e *Engine) Containers() (all []containertypes.CreateRequest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.containers {
		all = append(all, containertypes.CreateRequest{Config: &c.Config, HostConfig: &c.HostConfig})
	}
	return all
}

// image returns the ID of the image that was recorded.
func (e *Engine) image() string {
	var image struct{ ID string }
	must(json.Unmarshal(e.answers["image-inspect"].body, &image))
	return image.ID
}
