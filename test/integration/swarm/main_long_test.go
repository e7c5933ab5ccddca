//go:build integration && long

package swarm

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"iglu.sh/builder/test/kit/fixture"
	"iglu.sh/builder/test/kit/gitserver"
	"iglu.sh/builder/test/kit/lab"
)

func TestMain(m *testing.M) {
	os.Exit(fixture.Main(m, func() error {
		if env.lab == nil {
			return nil
		}
		if env.git != nil {
			env.git.Close()
		}
		return env.lab.Remove()
	}))
}

// env is shared by all tests: a swarm of three nodes with the stack's secrets. The nodes' engines have the images that
// the stack needs.
var env struct {
	once  sync.Once
	err   error
	lab   *lab.Lab
	image string // the ID of the builder's image
	keys  string // the folder with the keys of 'iglu-builder agent keys'
	git   *http.Server
	url   string // the URL of the git server for jobs
}

// theLab returns the lab. The first call makes it.
func theLab(t *testing.T) *lab.Lab {
	t.Helper()
	if env.once.Do(func() { env.err = makeLab() }); env.err != nil {
		t.Fatal(env.err)
	}
	return env.lab
}

func makeLab() (err error) {
	if env.lab, err = lab.New(3); err != nil {
		return err
	}
	if err := env.lab.Swarm(); err != nil {
		return err
	}
	if err := makeImage(); err != nil {
		return err
	}
	if err := env.lab.Load(env.image, fixture.Env.Image); err != nil {
		return err
	}
	exec.Command("docker", "image", "rm", env.image).Run() // ignores errors: another run may use it
	listener, err := env.lab.Listen()
	if err != nil {
		return err
	}
	env.url = "http://" + listener.Addr().String()
	env.git = &http.Server{Handler: &gitserver.Server{Root: fixture.Env.Git.Root}}
	go env.git.Serve(listener)
	return makeSecrets()
}

// makeImage builds the builder's image as for a release.
func makeImage() error {
	folder, err := os.MkdirTemp("", "iglu-swarm-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if err := os.MkdirAll(filepath.Join(folder, "dist/state/iglu-builder"), 0o755); err != nil {
		return err
	}
	program, err := os.ReadFile(fixture.Env.Program)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "iglu-builder"), program, 0o755); err != nil {
		return err
	}
	output, err := exec.Command("docker", "build", "--quiet", "--file", fixture.RepoPath("images/release.Dockerfile"), folder).Output()
	env.image = strings.TrimSpace(string(output))
	return err
}

// makeSecrets makes the stack's secrets as described in docs/several-machines.md.
func makeSecrets() error {
	env.keys = filepath.Join(fixture.Env.StateDir, "keys")
	if err := exec.Command(fixture.Env.Program, "agent", "keys", env.keys).Run(); err != nil {
		return err
	}
	token := filepath.Join(env.keys, "token")
	if err := os.WriteFile(token, []byte(fixture.GoodToken), 0o600); err != nil {
		return err
	}
	for secret, file := range map[string]string{"iglu-server-key": "server/key.pem", "iglu-server-cert": "server/cert.pem",
		"iglu-agent-key": "agent/key.pem", "iglu-agent-cert": "agent/cert.pem", "iglu-token": "token"} {
		if _, err := env.lab.Nodes[0].Docker("secret", "create", secret, filepath.Join(env.keys, file)); err != nil {
			return err
		}
	}
	return nil
}
