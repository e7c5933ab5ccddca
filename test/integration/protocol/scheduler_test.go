//go:build integration

package protocol

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"iglu.sh/builder/test/kit/fixture"
	"iglu.sh/builder/test/kit/scheduler"
)

// startAsScheduler starts a builder's container as the scheduler does, without mounts and with one variable, on a
// network like iglu-nw, and returns its host. All other settings are in the image, as docs/iglu.md describes.
func startAsScheduler(t *testing.T) (host string) {
	t.Helper()
	name := "iglu-test-stack-" + strings.ToLower(rand.Text()[:10])
	ip := fixture.BridgeAddress(t)
	agent := fixture.StartAgent(t, fixture.DockerEngine(), ip)
	importBuilder(t, name, agent.Keys+"/server", "ENV DOCKER_HOST="+agent.At(ip), "ENV IGLU_AGENT_KEYS=/keys", "ENV IGLU_INSTANCE="+name, "ENV IGLU_JOB_IMAGE="+fixture.Env.Image,
		"ENV IGLU_ALLOWED_COMMANDS=nix,nix-build,sh", "ENV IGLU_LISTEN=:"+scheduler.Port, "ENV IGLU_STATE_DIR=/var/lib/iglu-builder")
	t.Cleanup(func() { fixture.Docker(t, "rmi", name) })
	fixture.Docker(t, "network", "create", name)
	t.Cleanup(func() { fixture.Docker(t, "network", "rm", name) })
	container := fixture.Docker(t, "run", "--detach", "--network", name, "--env", "LOG_LEVEL=DEBUG", name)
	t.Cleanup(func() {
		fixture.Docker(t, "stop", "--time", "30", container)
		log := fixture.Docker(t, "logs", container)
		if err := fixture.CheckSecrets(log); err != nil {
			t.Error(err)
		}
		if !strings.Contains(log, "level=DEBUG") {
			t.Errorf("LOG_LEVEL has no effect: %s", log)
		}
		fixture.Docker(t, "rm", container)
		s := fixture.Server{Instance: name}
		fixture.WantNoContainers(t, &s)
		for _, kind := range []string{"volume", "network"} {
			for _, thing := range s.OnEngine(kind) {
				fixture.Docker(t, kind, "rm", thing)
			}
		}
	})
	return fixture.Docker(t, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container)
}

// importBuilder makes an image with the builder, as images/Dockerfile does, and with keys for an agent.
func importBuilder(t *testing.T, image, keys string, changes ...string) {
	t.Helper()
	program, err := os.ReadFile(fixture.Env.Program)
	if err != nil {
		t.Fatal(err)
	}
	var root bytes.Buffer
	w := tar.NewWriter(&root)
	w.WriteHeader(&tar.Header{Name: "iglu-builder", Mode: 0o755, Size: int64(len(program))})
	w.Write(program)
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "var/lib/iglu-builder/", Mode: 0o755, Uid: 65532, Gid: 65532})
	for _, key := range []string{"key.pem", "cert.pem", "ca.pem"} {
		text, err := os.ReadFile(filepath.Join(keys, key))
		if err != nil {
			t.Fatal(err)
		}
		w.WriteHeader(&tar.Header{Name: "keys/" + key, Mode: 0o600, Uid: 65532, Gid: 65532, Size: int64(len(text))})
		w.Write(text)
	}
	w.Close()
	args := []string{"import"}
	for _, change := range append(changes, "USER 65532:65532", `ENTRYPOINT ["/iglu-builder"]`, `CMD ["serve"]`) {
		args = append(args, "--change", change)
	}
	load := exec.Command("docker", append(args, "-", image)...)
	load.Stdin = &root
	if output, err := load.CombinedOutput(); err != nil {
		t.Fatalf("docker import: %v: %s", err, output)
	}
}

// TestScheduler starts a builder and runs jobs on it as the scheduler does: one that pushes, one that fails, and one
// that is invalid.
func TestScheduler(t *testing.T) {
	host := startAsScheduler(t)
	cache := fixture.NewCache(t)
	noCommand := fixture.StackRow(fixture.Command("nix"))
	delete(noCommand["build_options"].(fixture.Object), "command")
	for _, test := range []struct {
		name string
		job  fixture.Object
		last map[string]any
		code int
	}{
		{"success", fixture.StackRow(cache.Pushing(fixture.SmallJob())),
			map[string]any{"msg": "Build was successfull", "buildExitCode": 0.0, "jobStatus": "success"}, websocket.CloseNormalClosure},
		{"failure", fixture.StackRow(fixture.Command("sh -c 'echo before; exit 3'")),
			map[string]any{"error": "Something went wrong while building. Builder exited with error code 3", "buildExitCode": 3.0,
				"msg": "the command ended with exit code 3: before. The end of its log may say more.", "jobStatus": "failed"}, websocket.CloseInternalServerErr},
		{"no job", noCommand,
			map[string]any{"error": "JSON schema is not valid.", "msg": "build_options.command: is missing", "jobStatus": "failed"},
			websocket.CloseInvalidFramePayloadData},
	} {
		t.Run(test.name, func(t *testing.T) {
			messages, code, err := scheduler.Run(t.Context(), host, fixture.JSONOf(t, test.job))
			if err != nil || len(messages) == 0 || code != test.code {
				t.Fatalf("%v, close code %d, messages %v", err, code, messages)
			}
			var before float64
			for _, message := range messages {
				at, ok := message["timestamp"].(float64)
				if !ok || at < before {
					t.Errorf("timestamp %v after %v", message["timestamp"], before)
				}
				before = at
				delete(message, "timestamp")
			}
			if diff := cmp.Diff(test.last, messages[len(messages)-1]); diff != "" {
				t.Errorf("last message (-want +got):\n%s", diff)
			}
			if accepted := map[string]any{"msg": "Start Building", "jobStatus": "starting"}; len(messages) > 1 && !cmp.Equal(accepted, messages[0]) {
				t.Errorf("first message %v", messages[0])
			}
		})
	}
	fixture.WantNames(t, cache, fixture.BothNames)
}
