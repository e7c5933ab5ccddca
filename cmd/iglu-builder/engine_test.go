package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An engine is a Docker engine of a test's own, which it may stop and kill.
type engine struct {
	folder string
	flags  []string
	daemon *exec.Cmd
}

func startEngine(t *testing.T, flags ...string) *engine {
	t.Helper()
	folder, err := os.MkdirTemp("", "iglu-engine-") // short, for the sake of socket names
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(folder, 0o711); err != nil { // user namespaces: root is somebody else
		t.Fatal(err)
	}
	e := &engine{folder: folder, flags: flags}
	t.Cleanup(func() {
		e.stop(syscall.SIGTERM)
		// One that was killed has mounted its folder on itself once more.
		for syscall.Unmount(filepath.Join(folder, "data"), syscall.MNT_DETACH) == nil {
		}
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	if err := e.start(); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *engine) host() string { return "unix://" + filepath.Join(e.folder, "docker.sock") }

func (e *engine) start() error {
	in := func(name string) string { return filepath.Join(e.folder, name) }
	// In a network of its own: an engine without a bridge removes the bridge of the
	// machine's other engine.
	e.daemon = exec.Command("unshare", "--net", "dockerd", "--host", e.host(), "--data-root", in("data"), "--exec-root", in("exec"),
		"--pidfile", in("pid"), "--bridge", "none", "--iptables=false", "--ip6tables=false")
	e.daemon.Args = append(e.daemon.Args, e.flags...)
	return startDaemon(e.daemon, e.host(), in("log"))
}

// startDaemon starts an engine's program, which writes its log to a file, and waits until the
// engine answers.
func startDaemon(daemon *exec.Cmd, host, logName string) error {
	log, err := os.Create(logName)
	if err != nil {
		return err
	}
	defer log.Close()
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		return err
	}
	if err := poll(time.Minute, func() bool { return answers(host) }); err != nil {
		text, _ := os.ReadFile(logName)
		return fmt.Errorf("the engine does not start: %w\n%s", err, text)
	}
	return nil
}

func (e *engine) process() *os.Process { return e.daemon.Process }

// answers reports whether an engine answers that listens on a socket.
func answers(host string) bool {
	socket := strings.TrimPrefix(host, "unix://")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", socket)
	}}}
	response, err := client.Get("http://docker/_ping")
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// stop ends the engine and waits for its containerd, which it starts itself.
func (e *engine) stop(signal os.Signal) {
	containerd, _ := os.ReadFile(filepath.Join(e.folder, "exec/containerd/containerd.pid"))
	e.daemon.Process.Signal(signal)
	e.daemon.Wait()
	poll(20*time.Second, func() bool {
		_, err := os.Stat(filepath.Join("/proc", string(containerd), "cmdline"))
		return len(containerd) == 0 || err != nil
	})
}

// importTool makes an image that holds nothing but this program, as the command tool.
func importTool(t *testing.T, host, image string) {
	t.Helper()
	program, err := os.ReadFile(world.program)
	if err != nil {
		t.Fatal(err)
	}
	importProgram(t, host, image, program, "tool")
}

// importProgram makes an image that holds nothing but a static program.
func importProgram(t *testing.T, host, image string, program []byte, command string) {
	t.Helper()
	var root bytes.Buffer
	w := tar.NewWriter(&root)
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777})
	w.WriteHeader(&tar.Header{Name: "bin/" + command, Mode: 0o755, Size: int64(len(program))})
	w.Write(program)
	w.Close()
	load := exec.Command("docker", "--host", host, "import", "--change", "ENV PATH=/bin", "-", image)
	load.Stdin = &root
	if output, err := load.CombinedOutput(); err != nil {
		t.Fatalf("docker import: %v: %s", err, output)
	}
}

// serverOn starts a builder on an engine, with jobs that run the tool.
func serverOn(t *testing.T, host, image string) *server {
	t.Helper()
	return serverWith(t, func(s *settings) {
		s.engineHost = host
		s.jobImage, s.jobNetwork, s.allowedCommands = image, "none", []string{"tool"}
	})
}

// TestEngineStopsAndComesBack stops the engine between jobs, and kills it under one.
func TestEngineStopsAndComesBack(t *testing.T) { onEngines(t, engineStopsAndComesBack) }

func engineStopsAndComesBack(t *testing.T, shared *site) {
	e := shared.own(t)
	importTool(t, e.host, "tool:1")
	s := serverOn(t, e.host, "tool:1")
	wantExit(t, do(t, s, command("tool --help")), 0)

	e.stop(syscall.SIGTERM)
	begun := time.Now()
	got := do(t, s, command("tool --help"))
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the client was told after %s", took)
	}
	if len(got.messages) != 2 || !strings.Contains(got.messages[1], "The container engine does not answer.") || got.closeCode != 1011 {
		t.Errorf("with the engine stopped: %+v", got)
	}
	if status, _ := s.get(t, "GET", "/api/v1/healthcheck"); status != 503 {
		t.Errorf("with the engine stopped, the health check is %d", status)
	}
	e.start(t)
	wantExit(t, do(t, s, command("tool --help")), 0)

	c := connect(t, s)
	c.send(`{"git":{"noClone":true},"buildOptions":{"command":"tool serve --listen 127.0.0.1:0","cachix":{"push":false}}}`)
	c.waitFor("msg=listening")
	e.stop(syscall.SIGKILL)
	got = c.finish()
	if len(got.messages) != 1 || !strings.Contains(got.messages[0], "The container engine went away") || got.closeCode != 1011 {
		t.Errorf("with the engine killed: %+v", got)
	}
	e.start(t)
	wantExit(t, do(t, s, command("tool --help")), 0)
	wantEmpty(t, e)
}

// TestEngineHangs freezes an engine under a job: its client is told after a minute, and when the
// engine goes on, so does the builder.
func TestEngineHangs(t *testing.T) { onEngines(t, engineHangs) }

func engineHangs(t *testing.T, shared *site) {
	e := shared.own(t)
	importTool(t, e.host, "tool:1")
	s := serverOn(t, e.host, "tool:1")
	c := connect(t, s)
	c.send(jsonOf(t, command("tool serve --listen 127.0.0.1:0")))
	c.waitFor("msg=listening")
	daemon := e.daemon.process()
	daemon.Signal(syscall.SIGSTOP)
	defer daemon.Signal(syscall.SIGCONT)
	got := c.finish()
	if len(got.messages) != 1 || !strings.Contains(got.messages[0], "The container engine does not answer any more.") || got.closeCode != 1011 {
		t.Errorf("with the engine hanging: %+v", got)
	}
	daemon.Signal(syscall.SIGCONT)
	wantExit(t, do(t, s, command("tool --help")), 0)
	wantEmpty(t, e)
}

// wantEmpty checks that an engine has no container, or soon has none.
func wantEmpty(t *testing.T, e *ownSite) {
	t.Helper()
	left := func() string { return e.docker(t, "container", "ls", "--all", "--quiet") }
	if err := poll(10*time.Second, func() bool { return left() == "" }); err != nil {
		t.Errorf("containers left: %s", left())
	}
}

// TestPull pulls the job image from a registry, and sees why it cannot be pulled.
func TestPull(t *testing.T) { onEngines(t, pull) }

func pull(t *testing.T, e *site) {
	registry := startRegistry(t)
	image := registry + "/iglu/tool:1"
	importTool(t, "", image)
	docker(t, "push", "--quiet", image)
	docker(t, "image", "rm", image)
	e.cleanUp(t, "image", "rm", image)

	tools := func(image string) *server {
		return e.server(t, func(s *settings) { s.jobImage, s.allowedCommands = image, []string{"tool"} })
	}
	s := tools(image)
	got := do(t, s, command("tool --help"))
	wantExit(t, got, 0)
	wantLine(t, got, "iglu: pulling "+image)
	if e.isPodman() {
		wantLine(t, got, "iglu: pulled ") // and nothing more
	} else {
		wantLine(t, got, "Downloaded newer image for "+image)
	}
	wantLine(t, got, "iglu: job image "+image+", sha256:")
	if got := do(t, s, command("tool --help")); len(got.lines) == 0 || strings.Contains(strings.Join(got.lines, "\n"), "pulling") {
		t.Errorf("the second job pulls again: %v", got.lines)
	}

	missing := tools(registry + "/iglu/nothing:1")
	got = do(t, missing, command("tool --help"))
	if len(got.messages) != 2 || !strings.Contains(got.messages[1], "cannot be pulled") {
		t.Errorf("without the image: %+v", got)
	}
}

// startRegistry starts a real registry and returns its host and port.
func startRegistry(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // for a free port
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	folder := t.TempDir()
	config := "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: " + folder + "\nhttp:\n  addr: " + address + "\n"
	name := filepath.Join(folder, "config.yml")
	if err := os.WriteFile(name, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("docker-registry", "serve", name)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Process.Kill(); daemon.Wait() })
	if err := poll(10*time.Second, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}); err != nil {
		t.Fatal(err)
	}
	return address
}

// TestOtherPlatform runs a builder on an engine that says it is of another CPU
// architecture: the real engine, with that one word changed on the way.
func TestOtherPlatform(t *testing.T) { onEngines(t, otherPlatform) }

func otherPlatform(t *testing.T, e *site) {
	s := e.serverVia(t, e.saying(t, "/version", `"amd64"`, `"riscv64"`), func(*settings) {})
	got := do(t, s, command("nix --version"))
	if len(got.messages) != 2 || !strings.Contains(got.messages[1], "runs linux/riscv64, but this builder is made for linux/amd64") {
		t.Errorf("got %+v", got)
	}
}

// saying returns where the engine listens with a word changed in its answer to a call.
func (e *site) saying(t *testing.T, call, word, other string) (host string) {
	t.Helper()
	proxy := proxyTo(t, e.socket())
	proxy.ModifyResponse = func(r *http.Response) error {
		if !strings.HasSuffix(r.Request.URL.Path, call) {
			return nil
		}
		text, err := io.ReadAll(r.Body)
		text = bytes.ReplaceAll(text, []byte(word), []byte(other))
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
		r.Header.Del("Content-Length")
		return err
	}
	engine := httptest.NewServer(proxy)
	t.Cleanup(engine.Close)
	return "tcp://" + engine.Listener.Addr().String()
}
