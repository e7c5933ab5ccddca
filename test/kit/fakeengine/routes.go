package fakeengine

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	containertypes "github.com/docker/docker/api/types/container"
)

// A request is a call with the name in its path and its body.
type request struct {
	*http.Request
	of   string
	body []byte
}

// A route is a kind of call and its handler.
type route struct {
	path *regexp.Regexp
	do   func(*Engine, request) answer
}

func routeOf(path string, do func(*Engine, request) answer) route {
	return route{regexp.MustCompile("^" + path + "$"), do}
}

var routes = []route{
	routeOf("HEAD /_ping", func(e *Engine, _ request) answer { return e.ping("ping") }),
	routeOf("GET /_ping", func(e *Engine, _ request) answer { return e.ping("ping-get") }),
	routeOf("GET /version", (*Engine).version),
	routeOf("GET /info", (*Engine).info),
	routeOf("GET /images/(.*)/json", (*Engine).inspectImage),
	routeOf("POST /images/create", (*Engine).pull),
	routeOf("POST /containers/create", (*Engine).create),
	routeOf("GET /containers/json", (*Engine).listContainers),
	routeOf("GET /containers/(.*)/json", onContainer("inspect-missing", (*Engine).inspect)),
	routeOf("POST /containers/(.*)/attach", onContainer("attach-missing", (*Engine).attachTo)),
	routeOf("POST /containers/(.*)/wait", onContainer("wait-missing", (*Engine).wait)),
	routeOf("POST /containers/(.*)/start", onContainer("start-missing", (*Engine).start)),
	routeOf("POST /containers/(.*)/stop", onContainer("stop-missing", (*Engine).stopIt)),
	routeOf("HEAD /containers/(.*)/archive", onContainer("archive-head-nowhere", (*Engine).lookAt)),
	routeOf("GET /containers/(.*)/archive", onContainer("archive-get-nowhere", (*Engine).copyFrom)),
	routeOf("PUT /containers/(.*)/archive", onContainer("archive-put-nowhere", (*Engine).copyTo)),
	routeOf("DELETE /containers/(.*)", onContainer("remove-missing", (*Engine).remove)),
	routeOf("POST /volumes/create", (*Engine).createVolume),
	routeOf("GET /volumes", (*Engine).listVolumes),
	routeOf("GET /volumes/(.*)", (*Engine).inspectVolume),
	routeOf("DELETE /volumes/(.*)", (*Engine).removeVolume),
	routeOf("POST /networks/create", (*Engine).createNetwork),
	routeOf("GET /networks", (*Engine).listNetworks),
	routeOf("GET /networks/(.*)", (*Engine).inspectNetwork),
	routeOf("DELETE /networks/(.*)", (*Engine).removeNetwork),
}

func (e *Engine) ping(name string) answer {
	a := e.answers[name]
	if e.APIVersion != "" {
		a.header = maps.Clone(a.header)
		a.header.Set("Api-Version", e.APIVersion)
	}
	return a
}

func (e *Engine) version(request) answer {
	return e.answers["version"].with(`"Arch":"amd64"`, fmt.Sprintf(`"Arch":%q`, e.Arch))
}

func (e *Engine) info(request) answer {
	if e.SecurityOptions == nil && e.NotEnforced == nil {
		return e.answers["info"]
	}
	return e.answers["info"].edited(func(info map[string]any) {
		if e.SecurityOptions != nil {
			info["SecurityOptions"] = e.SecurityOptions
		}
		for _, limit := range e.NotEnforced {
			info[limit] = false
		}
	})
}

// hasImage reports whether an image exists on the engine. There is only one.
func (e *Engine) hasImage(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.Missing && (name == ImageRef || name == e.image())
}

func (e *Engine) inspectImage(r request) answer {
	if !e.hasImage(r.of) {
		return e.answers["image-missing"].with(ImageRef, r.of)
	}
	return e.answers["image-inspect"].with(`"Architecture":"amd64"`, fmt.Sprintf(`"Architecture":%q`, runtime.GOARCH))
}

func (e *Engine) pull(r request) answer {
	name := r.FormValue("fromImage") + ":" + r.FormValue("tag")
	if name != ImageRef {
		recorded := strings.TrimSuffix(ImageRef, ":1") + "-missing"
		return e.answers["pull-missing"].with(recorded+":1", name, recorded, r.FormValue("fromImage"))
	}
	pulled := e.answers["pull"]
	progress := pulled.body
	pulled.later = func() []byte {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.Missing = false
		return progress
	}
	return pulled
}

// newID returns the ID for a new object. e.mu must be held.
func (e *Engine) newID() string {
	e.made++
	return fmt.Sprintf("%064x", 0xc0<<32+e.made)
}

func (e *Engine) create(r request) answer {
	var wanted struct {
		*containertypes.Config
		HostConfig containertypes.HostConfig
	}
	must(json.Unmarshal(r.body, &wanted))
	if !e.hasImage(wanted.Image) {
		return e.answers["create-without-image"].with(ImageRef+"-missing", wanted.Image)
	}
	if wanted.HostConfig.NanoCPUs > 0 && slices.Contains(e.NotEnforced, "CpuCfsQuota") { // as Docker, not Podman: daemon_unix.go
		return answer{status: http.StatusBadRequest, header: http.Header{"Content-Type": {"application/json"}},
			body: []byte(`{"message":"NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted"}`)}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c := &container{Config: *wanted.Config, HostConfig: wanted.HostConfig, name: r.FormValue("name"), state: "created",
		files: make(map[string][]byte), run: newRun()}
	for _, other := range e.containers {
		if c.name != "" && other.name == c.name {
			return e.answers["create-twice"].with(ContainerName, c.name, ContainerID, other.id)
		}
	}
	c.id = e.newID()
	for _, m := range c.HostConfig.Mounts {
		if e.volumes[m.Source] == nil { // engines make missing volumes
			e.volumes[m.Source] = &volume{m.Source, nil, make(map[string][]byte)}
		}
	}
	e.containers = append(e.containers, c)
	return e.answers["create"].with(ContainerID, c.id)
}

// onContainer returns the handler of a call on a container. If no container has the name, it answers with
// the recording named missing.
func onContainer(missing string, do func(*Engine, *container, request) answer) func(*Engine, request) answer {
	return func(e *Engine, r request) answer {
		e.mu.Lock()
		at := slices.IndexFunc(e.containers, func(c *container) bool { return c.id == r.of || c.name == r.of })
		if at < 0 {
			e.mu.Unlock()
			return e.answers[missing].with(MissingName, r.of)
		}
		c := e.containers[at]
		e.mu.Unlock()
		return do(e, c, r)
	}
}

func (e *Engine) inspect(c *container, _ request) answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	recorded := "inspect-" + c.state
	if c.outOfMemory && c.state == "exited" {
		recorded = "inspect-out-of-memory" // Podman does not report it
	}
	return e.answers[recorded].with(ContainerID, c.id, ContainerName, c.name).edited(func(found map[string]any) {
		found["State"].(map[string]any)["ExitCode"] = c.code
		found["HostConfig"].(map[string]any)["Memory"] = c.HostConfig.Memory
	})
}

func (e *Engine) attachTo(c *container, _ request) answer {
	attached := e.answers["attach"]
	attached.taken = func(to *conn) { e.attach(c, to) }
	attached.stream = func(from *conn) { readInput(c, from) }
	return attached
}

func (e *Engine) wait(c *container, r request) answer {
	waited := e.answers["wait"]
	e.mu.Lock()
	next := r.FormValue("condition") == "next-exit" && c.state == "exited"
	e.mu.Unlock()
	waited.later = func() []byte {
		ended := c.run.ended
		if next {
			ended = nil // it is not started again
		}
		select {
		case <-ended:
		case <-r.Context().Done():
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		return waited.with(`"StatusCode":3`, fmt.Sprintf(`"StatusCode":%d`, c.code)).body
	}
	return waited
}

func (e *Engine) start(c *container, _ request) answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.state != "created" {
		return e.answers["start-twice"]
	}
	e.begin(c)
	return e.answers["start"]
}

func (e *Engine) stopIt(c *container, r request) answer {
	if !slices.Contains(e.runningContainers(), c) {
		return e.answers["stop-stopped"]
	}
	e.stop(c, time.Duration(must2(strconv.Atoi(r.FormValue("t"))))*time.Second)
	return e.answers["stop"]
}

func (e *Engine) remove(c *container, r request) answer {
	if slices.Contains(e.runningContainers(), c) {
		c.run.kill()
		<-c.run.ended
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers = slices.DeleteFunc(e.containers, func(other *container) bool { return other == c })
	return e.answers["remove"]
}

// stat adds the header with a file's metadata to an answer.
func (a answer) stat(name string, size int) answer {
	const header = "X-Docker-Container-Path-Stat"
	text := must2(base64.StdEncoding.DecodeString(a.header.Get(header)))
	stat := answer{body: text}.edited(func(stat map[string]any) { stat["name"], stat["size"] = path.Base(name), size })
	a.header = maps.Clone(a.header)
	a.header.Set(header, base64.StdEncoding.EncodeToString(stat.body))
	return a
}

func (e *Engine) lookAt(c *container, r request) answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	text, ok := e.file(c, r.FormValue("path"))
	if !ok {
		return e.answers["archive-head-missing"]
	}
	return e.answers["archive-head"].stat(r.FormValue("path"), len(text))
}

func (e *Engine) copyFrom(c *container, r request) answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	name := r.FormValue("path")
	text, ok := e.file(c, name)
	if !ok {
		return e.answers["archive-get-missing"].with("/iglu/program", name, ContainerName, c.id)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	must(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Base(name), Mode: 0o600, Size: int64(len(text))}))
	must2(w.Write(text))
	must(w.Close())
	copied := e.answers["archive-get"].stat(name, len(text))
	copied.body = archive.Bytes()
	return copied
}

func (e *Engine) copyTo(c *container, r request) answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	for archive := tar.NewReader(bytes.NewReader(r.body)); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return e.answers["archive-put"]
		}
		must(err)
		files, name := e.filesAt(c, path.Join(r.FormValue("path"), header.Name))
		files[name] = must2(io.ReadAll(archive))
	}
}
