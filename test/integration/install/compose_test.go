//go:build integration

package install

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/test/kit/fixture"
)

// root is the folder of the repository.
const root = "../../.."

const (
	// commandTimeout limits each command. The longest one compiles the program and its dependencies while other
	// tests run.
	commandTimeout = 20 * time.Minute
	// readyTimeout limits the wait for the server's first answer, and jobTimeout the wait for a job's last
	// message.
	readyTimeout = 30 * time.Second
	jobTimeout   = 10 * time.Minute

	imageName     = "ghcr.io/iglu-sh/builder"
	engineSocket  = "/var/run/docker.sock"
	instanceLabel = "sh.iglu.builder.instance"
	projectLabel  = "com.docker.compose.project"
)

// TestComposeImage starts the stack with an image that is already on the engine, built as for a release. The
// container's healthcheck must succeed in time.
func TestComposeImage(t *testing.T) {
	const version = "1.2.3-test"
	s := newStack(t)
	s.releaseImage(version)
	s.mustCompose("up", "--detach", "--no-build")
	container := s.container()

	s.awaitHealthStatus(container, 10*time.Second)
	if got := s.mustDocker("exec", container, "/iglu-builder", "version"); !strings.HasPrefix(got, "iglu-builder "+version+" ") {
		t.Errorf("the image's program says %q, want version %s", got, version)
	}
	label := `{{index .Config.Labels "org.opencontainers.image.version"}}`
	if got := s.mustDocker("image", "inspect", "--format", label, s.image()); got != version {
		t.Errorf("the image's label says version %q, want %s", got, version)
	}
	s.checkWorks(container)
}

// checkWorks runs a job on the stack and takes the stack down.
func (s *stack) checkWorks(container string) {
	s.t.Helper()
	s.checkHealthy()
	s.checkConfined(container)
	s.checkJob()
	s.checkUnreachable(container)
	s.checkJobLeftNothing()

	s.mustCompose("stop")
	if code := s.mustDocker("container", "inspect", "--format", "{{.State.ExitCode}}", container); code != "0" {
		s.t.Errorf("the server ended with exit code %s when it was stopped, not 0", code)
	}
	s.down()
	for _, label := range []string{projectLabel, instanceLabel} {
		if left := s.labelled(label); len(left) > 0 {
			s.t.Errorf("left with the label %s: %q", label, left)
		}
	}
}

// stack is one Compose project. Its name is also the builder's instance.
type stack struct {
	t        *testing.T
	name     string
	jobImage string
	address  string   // of the server, host:port
	command  []string // docker-compose with the options of this project
}

func newStack(t *testing.T) *stack {
	s := &stack{
		t:       t,
		name:    "compose-test-" + strings.ToLower(rand.Text()[:8]),
		address: freeAddress(t),
	}
	s.jobImage = s.findJobImage()
	s.command = append(s.findCompose(), "--project-name", s.name, "--env-file", s.envFile())
	t.Cleanup(s.down)
	return s
}

// freeAddress returns an address on which nothing listened a moment ago. The kernel does not assign its port
// automatically.
func freeAddress(t *testing.T) string {
	for range 100 {
		listener, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 20_000+mathrand.N(10_000)))
		if err == nil {
			defer listener.Close()
			return listener.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

// image returns the name of the builder's image. The tag is the stack's name.
func (s *stack) image() string { return imageName + ":" + s.name }

// releaseImage builds the builder's image as .goreleaser.yaml does, and loads it into the engine from an
// archive.
func (s *stack) releaseImage(version string) {
	s.t.Helper()
	folder := s.t.TempDir()
	if err := os.MkdirAll(filepath.Join(folder, "dist/state/iglu-builder"), 0o755); err != nil {
		s.t.Fatal(err)
	}
	s.must(s.run("env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags=-s -w -X main.version="+version,
		"-o", filepath.Join(folder, "iglu-builder"), "./cmd/iglu-builder"))
	s.mustDocker("build", "--quiet", "--file", "images/release.Dockerfile",
		"--build-arg", "VERSION="+version, "--tag", s.image(), folder)
	archive := filepath.Join(folder, "image.tar")
	s.mustDocker("save", "--output", archive, s.image())
	s.mustDocker("image", "rm", s.image())
	s.mustDocker("load", "--input", archive)
}

// container returns the id of the builder's container.
func (s *stack) container() string {
	s.t.Helper()
	return s.mustDocker("container", "ls", "--quiet", "--filter", "label="+projectLabel+"="+s.name)
}

func (s *stack) findJobImage() string {
	image := os.Getenv("IGLU_TEST_JOB_IMAGE")
	if image == "" {
		image = s.must(s.run("images/debian/build", "--name"))
	}
	if _, err := s.docker("image", "inspect", image); err != nil {
		s.t.Fatalf("The job image %s is not on the engine: run the tests with 'make test', which builds it. (%v)", image, err)
	}
	return image
}

// findCompose returns the command of Compose v2, or of v1 if there is no v2.
func (s *stack) findCompose() []string {
	commands := [][]string{{"docker", "compose"}, {"docker-compose"}}
	for _, command := range commands {
		if _, err := s.run(command[0], append(command[1:], "version")...); err == nil {
			return command
		}
	}
	s.t.Fatal("There is no docker-compose on this machine: install the package docker-compose.")
	return nil
}

// envFile writes the settings to a file like a user's .env, and returns its path.
func (s *stack) envFile() string {
	socket, err := os.Stat(engineSocket)
	if err != nil {
		s.t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	name := filepath.Join(s.t.TempDir(), "env")
	settings := fmt.Sprintf("DOCKER_GID=%d\nIGLU_BUILDER_TAG=%s\nIGLU_PORT=%s\nIGLU_INSTANCE=%s\nIGLU_JOB_IMAGE=%s\n",
		socket.Sys().(*syscall.Stat_t).Gid, s.name, port, s.name, s.jobImage)
	if err := os.WriteFile(name, []byte(settings), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return name
}

// down removes the stack, its image, and the builder's network and the volume with its program. It may be called
// twice.
func (s *stack) down() {
	s.t.Helper()
	if _, err := s.compose("down", "--volumes"); err != nil {
		s.t.Error(err)
	}
	if _, err := s.docker("image", "inspect", s.image()); err == nil {
		s.mustDocker("image", "rm", s.image())
	}
	for _, thing := range s.labelled(instanceLabel) {
		kind, id, _ := strings.Cut(thing, " ")
		args := []string{kind, "rm", id}
		if kind == "container" {
			args = []string{kind, "rm", "--force", "--volumes", id}
		}
		if _, err := s.docker(args...); err != nil {
			s.t.Error(err)
		}
	}
}

// labelled returns the kinds and the IDs of all objects on the engine that have a label with the stack's name,
// in an order in which they can be removed.
func (s *stack) labelled(label string) []string {
	s.t.Helper()
	var things []string
	for _, kind := range []string{"container", "volume", "network", "image"} {
		args := []string{kind, "ls", "--quiet", "--filter", "label=" + label + "=" + s.name}
		if kind == "container" {
			args = append(args, "--all")
		}
		for _, id := range strings.Fields(s.mustDocker(args...)) {
			things = append(things, kind+" "+id)
		}
	}
	return things
}

func (s *stack) compose(args ...string) (string, error) {
	return s.run(s.command[0], append(slices.Clone(s.command[1:]), args...)...)
}

func (s *stack) docker(args ...string) (string, error) { return s.run("docker", args...) }

func (s *stack) mustCompose(args ...string) string {
	s.t.Helper()
	return s.must(s.compose(args...))
}

func (s *stack) mustDocker(args ...string) string {
	s.t.Helper()
	return s.must(s.docker(args...))
}

func (s *stack) must(output string, err error) string {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	return output
}

// run runs a command in the repository's root and returns its standard output. An error contains the standard
// output and the standard error.
func (s *stack) run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, name, args...)
	command.WaitDelay = time.Second // a child of the command may hold its output open
	command.Dir = root
	// Settings in the developer's environment would override those of the test.
	command.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "IGLU_") || strings.HasPrefix(variable, "COMPOSE_") ||
			strings.HasPrefix(variable, "DOCKER_GID=")
	})
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, &stdout, &stderr)
	}
	return strings.TrimSpace(stdout.String()), nil
}

// checkHealthy waits until the server's health check succeeds.
func (s *stack) checkHealthy() {
	s.t.Helper()
	if err := fixture.AwaitHealthy(s.address, readyTimeout); err != nil {
		log, logErr := s.compose("logs")
		s.t.Fatalf("%v\nlog: %s", err, cmp.Or(log, fmt.Sprint(logErr)))
	}
}

// awaitHealthStatus waits until the engine reports the container as healthy. It checks how long after the
// container's start that was, by the engine's clock.
func (s *stack) awaitHealthStatus(container string, within time.Duration) {
	s.t.Helper()
	var state struct {
		StartedAt time.Time
		Health    struct {
			Status string
			Log    []struct {
				End      time.Time
				ExitCode int
				Output   string
			}
		}
	}
	err := fixture.AwaitEngine("", readyTimeout, func() bool {
		text := s.mustDocker("container", "inspect", "--format", "{{json .State}}", container)
		if err := json.Unmarshal([]byte(text), &state); err != nil {
			s.t.Fatal(err)
		}
		return state.Health.Status == "healthy"
	})
	if err != nil {
		s.t.Fatalf("the engine does not report the container as healthy: %v, %+v", err, state)
	}
	last := state.Health.Log[len(state.Health.Log)-1]
	if took := last.End.Sub(state.StartedAt); took > within {
		s.t.Errorf("the container was healthy %v after its start, want at most %v: %+v", took, within, state)
	} else {
		s.t.Logf("healthy %v after the container's start", took)
	}
}

// checkConfined checks the restrictions in docker-compose.yml on the server's process, as the kernel reports
// them.
func (s *stack) checkConfined(container string) {
	s.t.Helper()
	pid := s.mustDocker("container", "inspect", "--format", "{{.State.Pid}}", container)
	status := processStatus(s.t, pid)
	if ids := strings.Fields(status["Uid"]); len(ids) != 4 || slices.Contains(ids, "0") {
		s.t.Errorf("the server runs as the users %q: none may be root", ids)
	}
	for name, want := range map[string]string{
		"CapEff":     "0000000000000000",
		"CapBnd":     "0000000000000000",
		"NoNewPrivs": "1",
	} {
		if got := status[name]; got != want {
			s.t.Errorf("%s of the server: got %q, want %q", name, got, want)
		}
	}
	if got := s.mustDocker("container", "inspect", "--format", "{{.HostConfig.ReadonlyRootfs}}", container); got != "true" {
		s.t.Error("the container's file system can be written to")
	}

	// The program can be run in the container, so a shell could be run too if there were one.
	s.mustDocker("exec", container, "/iglu-builder", "--help")
	if _, err := s.docker("exec", container, "/bin/sh", "-c", "true"); err == nil || !strings.Contains(err.Error(), "no such file") {
		s.t.Errorf("the image has a shell, or the attempt failed for another reason: %v", err)
	}
}

// processStatus returns the fields of a process's status in /proc.
func processStatus(t *testing.T, pid string) map[string]string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.TrimSpace(value)
	}
	return fields
}

const composeJob = `{"git":{"noClone":true},"buildOptions":{"command":"nix --version","cachix":{"push":false}}}`

var nixVersion = regexp.MustCompile(`^nix \(Nix\) [0-9]+\.[0-9.]+$`)

// checkJob runs a job and checks all messages. The builder's own lines, which begin with "iglu: ", may be
// between the job's.
func (s *stack) checkJob() {
	s.t.Helper()
	messages := s.runJob()
	if len(messages) < 3 {
		s.t.Fatalf("too few messages: %q", messages)
	}
	last := len(messages) - 1
	if got, want := messages[0], `{"msg":"Start Building","jobStatus":"starting"}`; got != want {
		s.t.Errorf("first message: got %s, want %s", got, want)
	}
	if got, want := messages[last], `{"msg":"Build was successfull","buildExitCode":0,"childExitCode":0,"jobStatus":"success"}`; got != want {
		s.t.Errorf("last message: got %s, want %s", got, want)
	}
	var printed []string
	for _, message := range messages[1:last] {
		if line := outputLine(s.t, message); !strings.HasPrefix(line, "iglu: ") {
			printed = append(printed, line)
		}
	}
	if len(printed) != 1 || !nixVersion.MatchString(printed[0]) {
		s.t.Errorf("output of the job: got %q, want one line with the version of Nix", printed)
	}
}

// checkUnreachable runs jobs that call the builder: at the address of its container, and at the machine's addresses
// on the builder's and the jobs' networks. The port is published only on 127.0.0.1.
func (s *stack) checkUnreachable(container string) {
	s.t.Helper()
	addresses := strings.Fields(s.mustDocker("container", "inspect", "--format",
		"{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}}{{end}}", container) + " " +
		s.mustDocker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", "iglu-builder-"+s.name+"-jobs"))
	if len(addresses) != 3 {
		s.t.Fatalf("the addresses are %q", addresses)
	}
	for _, address := range addresses {
		unreachable, log := false, ""
		// While other tests make networks, Docker lets some packets pass. Each try has a URL of its own, because Nix
		// keeps what it has fetched.
		for tries := 1; tries <= 3 && !unreachable; tries++ {
			url := fmt.Sprintf("http://%s:3000/livez?%d", address, tries)
			messages, code := s.send(`{"git":{"noClone":true},"buildOptions":{"command":"nix eval --impure --option download-attempts 1 ` +
				`--option connect-timeout 2 --expr 'builtins.fetchurl \"` + url + `\"'","cachix":{"push":false}}}`)
			log = strings.Join(messages, "\n")
			unreachable = code == websocket.CloseInternalServerErr && strings.Contains(log, "unable to download")
		}
		if !unreachable {
			s.t.Errorf("jobs that call the builder at %s; the messages of the last one:\n%s", address, log)
		}
	}
}

// runJob sends the job and returns the server's messages. The close code must be that of success.
func (s *stack) runJob() []string {
	s.t.Helper()
	messages, code := s.send(composeJob)
	if code != websocket.CloseNormalClosure {
		s.t.Errorf("close code %d, want %d", code, websocket.CloseNormalClosure)
	}
	return messages
}

// send sends a job and returns the server's messages and the close code.
func (s *stack) send(job string) (messages []string, code int) {
	s.t.Helper()
	conn, _, err := websocket.DefaultDialer.Dial("ws://"+s.address+"/api/v1/build", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(jobTimeout))
	if err := conn.WriteMessage(websocket.TextMessage, []byte(job)); err != nil {
		s.t.Fatal(err)
	}
	for {
		_, message, err := conn.ReadMessage()
		if err != nil {
			end, ok := errors.AsType[*websocket.CloseError](err)
			if !ok {
				s.t.Fatalf("end of the connection: %v", err)
			}
			return messages, end.Code
		}
		messages = append(messages, string(message))
	}
}

// outputLine returns the line in a message. The message must contain only a line of output.
func outputLine(t *testing.T, message string) string {
	t.Helper()
	var fields map[string]string
	if err := json.Unmarshal([]byte(message), &fields); err != nil {
		t.Errorf("%s: %v", message, err)
	}
	line, ok := fields["stdout"]
	if !ok || fields["jobStatus"] != "running" || len(fields) != 2 {
		t.Errorf("message between the first and the last: got %s, want a line of output", message)
	}
	return line
}

// kinds returns the number of objects of each kind that carry the instance's name.
func (s *stack) kinds() map[string]int {
	kinds := map[string]int{}
	for _, thing := range s.labelled(instanceLabel) {
		kind, _, _ := strings.Cut(thing, " ")
		kinds[kind]++
	}
	return kinds
}

// checkJobLeftNothing checks that no container of the job is left. It also checks that the builder made objects
// with the instance's name: otherwise the first check would show nothing.
func (s *stack) checkJobLeftNothing() {
	s.t.Helper()
	var kinds map[string]int
	if err := fixture.AwaitEngine("", 10*time.Second, func() bool { kinds = s.kinds(); return kinds["container"] == 0 }); err != nil {
		s.t.Errorf("%d containers are left of the job: %v", kinds["container"], err)
	}
	if kinds["volume"] == 0 {
		s.t.Errorf("the builder made nothing with the instance name %s", s.name)
	}
}
