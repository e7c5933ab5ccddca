//go:build integration

package nix

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// root is the folder of the repository.
const root = "../../.."

// box is a container of the job image that all tests share, and the folder that it shares with them. The
// subfolder builder has a copy of the repository.
var box struct{ container, folder string }

func TestMain(m *testing.M) {
	err := openBox()
	code := 1
	if err == nil {
		code = m.Run()
	}
	if err = errors.Join(err, closeBox()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func openBox() (err error) {
	if box.folder, err = os.MkdirTemp("", "iglu-test-flake-"); err != nil {
		return err
	}
	// The files in git, and new files that git does not ignore.
	script := `mkdir "$0/builder" && git ls-files --cached --others --exclude-standard -z |
		xargs -0 cp --parents --no-dereference --target-directory "$0/builder"`
	command := exec.Command("sh", "-c", script, box.folder)
	command.Dir = root
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("copy the repository: %w: %s", err, output)
	}
	standin, err := filepath.Abs("testdata/nixpkgs")
	if err != nil {
		return err
	}
	image := os.Getenv("IGLU_TEST_JOB_IMAGE")
	if image == "" {
		return errors.New("IGLU_TEST_JOB_IMAGE is not set: run the tests with 'make test'")
	}
	id, err := exec.Command("docker", "run", "--detach", "--network", "none",
		"--env", "NIX_CONFIG=extra-experimental-features = nix-command flakes",
		"--volume", filepath.Join(box.folder, "builder")+":/builder:ro",
		"--volume", standin+":/standin:ro",
		"--volume", box.folder+":"+box.folder,
		image, "sleep", "infinity").Output()
	if err != nil {
		return fmt.Errorf("docker run: %w", err)
	}
	box.container = strings.TrimSpace(string(id))
	return nil
}

func closeBox() error {
	var err error
	if box.container != "" {
		err = exec.Command("docker", "rm", "--force", "--volumes", box.container).Run()
	}
	return errors.Join(err, os.RemoveAll(box.folder))
}

// run runs a script in the box.
func run(script string) (output string, err error) {
	var stdout, stderr bytes.Buffer
	command := exec.Command("docker", "exec", box.container, "sh", "-c", script)
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s%s", script, err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

// A flake is a folder with the flake of a user of the builder.
type flake struct {
	t      *testing.T
	folder string
}

func newFlake(t *testing.T) *flake {
	t.Helper()
	folder, err := os.MkdirTemp(box.folder, "user-")
	if err != nil {
		t.Fatal(err)
	}
	f := &flake{t, folder}
	text, err := os.ReadFile("testdata/user/flake.nix")
	if err != nil {
		t.Fatal(err)
	}
	f.write("flake.nix", string(text))
	f.module("default", "{ services.iglu-builder.enable = true; }")
	return f
}

// module adds a machine to the user's flake.
func (f *flake) module(name, text string) { f.write("modules/"+name, text) }

func (f *flake) write(name, text string) {
	f.t.Helper()
	name = filepath.Join(f.folder, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// offline are the arguments with which Nix uses the replacement for nixpkgs.
const offline = " --no-write-lock-file --override-input nixpkgs path:/standin "

// eval evaluates an attribute of the flake.
func (f *flake) eval(attribute string, value any) {
	f.t.Helper()
	eval(f.t, "path:"+f.folder+"#"+attribute, value)
}

// eval evaluates an attribute of a flake.
func eval(t *testing.T, attribute string, value any) {
	t.Helper()
	output, err := run("nix eval --json" + offline + attribute)
	if err == nil {
		err = json.Unmarshal([]byte(output), value)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestFlake runs nix flake check: every output can be evaluated and has the right type.
func TestFlake(t *testing.T) {
	if _, err := run("nix flake check --no-build --all-systems" + offline + "path:/builder"); err != nil {
		t.Error(err)
	}
	var overlaid string
	if newFlake(t).eval("overlaid", &overlaid); overlaid != "iglu-builder-dev" {
		t.Errorf("the overlay's package is %q", overlaid)
	}
	var shell string
	if eval(t, "path:/builder#devShells.aarch64-linux.default.name", &shell); shell != "nix-shell" {
		t.Errorf("the shell is %q", shell)
	}
}

// TestPackage compares the package with the repository: the programs that are built, and the Go modules. Nix
// computes the hash of the modules.
func TestPackage(t *testing.T) {
	vendor := filepath.Join(box.folder, "vendor")
	command := exec.Command("go", "mod", "vendor", "-o", vendor)
	command.Dir = root
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("go mod vendor: %v: %s", err, output)
	}
	var hash string
	eval(t, "path:/builder#packages.x86_64-linux.default.vendorHash", &hash)
	if want, err := run("nix hash path " + vendor); err != nil || strings.TrimSpace(want) != hash {
		t.Errorf("vendorHash is %s, and Nix says %s of the modules (%v)", hash, want, err)
	}
	var drv map[string]struct{ Env map[string]string }
	output, err := run("nix derivation show" + offline + "path:/builder#iglu-builder")
	if err != nil {
		t.Fatal(err)
	}
	// Newer versions of Nix put the derivations below the key derivations.
	var shown struct{ Derivations json.RawMessage }
	if json.Unmarshal([]byte(output), &shown) == nil && shown.Derivations != nil {
		output = string(shown.Derivations)
	}
	if err := json.Unmarshal([]byte(output), &drv); err != nil || len(drv) != 1 {
		t.Fatalf("%v: %s", err, output)
	}
	for _, d := range drv {
		if d.Env["CGO_ENABLED"] != "0" || d.Env["subPackages"] != "cmd/iglu-builder" || d.Env["ldflags"] != "-s -w -X main.version=dev" {
			t.Errorf("it is built with %q", d.Env)
		}
	}
}

// TestNixOSTest evaluates the machine of the NixOS test, which itself needs a machine with KVM.
func TestNixOSTest(t *testing.T) {
	var services map[string]service
	eval(t, "path:/builder#checks.x86_64-linux.nixos.nodes.machine.systemd.services", &services)
	builder := services["iglu-builder"]
	if builder.Environment["IGLU_TOKEN_FILE"] != "%d/token-file" || builder.Environment["IGLU_PULL"] != "never" {
		t.Errorf("the builder of its machine has %q", builder.Environment)
	}
	var script string
	eval(t, "path:/builder#checks.x86_64-linux.nixos.testScript", &script)
	if !strings.Contains(script, "docker load < /nix/store/") || !strings.Contains(script, `machine.wait_for_unit("iglu-builder.service")`) {
		t.Errorf("its script is %s", script)
	}
}
