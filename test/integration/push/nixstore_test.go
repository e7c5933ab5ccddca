//go:build integration

package push

import (
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/test/kit/fixture"
)

// conn is a connection made of two pipes, one for each direction.
type conn struct {
	io.Reader
	io.Writer
}

// realStore runs a script and then a Nix daemon in a container of the job image. It returns a connection to the
// daemon, and the script's standard error.
func realStore(t *testing.T, script string) (*nixstore.Store, string) {
	t.Helper()
	command := exec.Command("docker", "run", "--rm", "--interactive", fixture.Env.Image, "bash", "-ec", script+"\nexec nix-daemon --stdio")
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	command.Stderr = stderr
	said := func() string {
		text, _ := os.ReadFile(stderr.Name())
		return string(text)
	}
	stdin, err1 := command.StdinPipe()
	stdout, err2 := command.StdoutPipe()
	if err := errors.Join(err1, err2, command.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := command.Wait(); err != nil {
			t.Errorf("the daemon ended with %v: %s", err, said())
		}
	})
	store, err := nixstore.Open(conn{stdout, stdin})
	if err != nil {
		t.Fatalf("%v: %s", err, said())
	}
	return store, said()
}

// TestStore queries a real daemon, and compares the answers with the output of Nix.
func TestStore(t *testing.T) {
	store, said := realStore(t, `
d() { echo "derivation { name = \"$1\"; system = builtins.currentSystem; builder = \"/bin/sh\"; args = [ \"-c\" \"echo $2 > \$out\" ]; }"; }
first=$(nix-build --no-out-link -E "$(d first 1)" 2>/dev/null)
second=$(nix-build --no-out-link -E "$(d second "\${$(d first 1)} \$out")" 2>/dev/null)
export NIX_CONFIG="extra-experimental-features = nix-command"
nix key generate-secret --key-name some-key > key
nix store sign --key-file key "$second"
echo text > text
added=$(nix-store --add text)
for p in "$first" "$second" "$added"; do
  echo "PATH $p $(nix-store -q --hash "$p" | xargs nix hash convert --hash-algo sha256 --to base16) $(nix-store -q --size "$p") $(nix-store -q --deriver "$p") $(nix-store -q --references "$p" | tr '\n' ,)" >&2
done`)
	all, err := store.Paths()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(said) {
		want := strings.Fields(line)
		if len(want) < 5 || want[0] != "PATH" {
			continue
		}
		n++
		if !slices.Contains(all, want[1]) {
			t.Errorf("%s is not among the paths %q", want[1], all)
		}
		info, err := store.Info(want[1])
		if err != nil {
			t.Fatal(err)
		}
		references := ""
		if len(want) > 5 {
			references = strings.TrimSuffix(want[5], ",")
		}
		deriver := info.Deriver
		if deriver == "" {
			deriver = "unknown-deriver"
		}
		slices.Sort(info.References)
		if got := hex.EncodeToString(info.NarHash[:]); got != want[2] || deriver != want[4] || strings.Join(info.References, ",") != references {
			t.Errorf("got %+v, want %q", info, want)
		}
		if info.NarSize <= 0 || info.BuiltHere == strings.HasSuffix(want[1], "-text") {
			t.Errorf("got %+v", info)
		}
		if signed := strings.HasSuffix(want[1], "-second"); signed != (len(info.Signatures) == 1) {
			t.Errorf("%s has the signatures %q", want[1], info.Signatures)
		}
	}
	if n != 3 {
		t.Errorf("%d paths in %s", n, said)
	}
	if _, err := store.Info("/nix/store/00000000000000000000000000000000-none"); !errors.Is(err, nixstore.ErrNoPath) {
		t.Errorf("a missing path: %v", err)
	}
	if _, err := store.Info("/etc/passwd"); !errors.Is(err, nixstore.ErrNoPath) {
		t.Errorf("not a store path: %v", err)
	}
	if _, err := store.Paths(); err != nil {
		t.Errorf("after that: %v", err)
	}
}
