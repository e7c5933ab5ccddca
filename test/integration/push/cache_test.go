//go:build integration

package push

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/cachix"
	"iglu.sh/builder/internal/nar"
	"iglu.sh/builder/test/kit/fixture"
)

// TestNixReadsTheCache pushes paths with references and with every kind of file. Nix in a container fetches them with
// required signatures, and verifies them.
func TestNixReadsTheCache(t *testing.T) {
	cache := fixture.EmptyCache(t)
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := cachix.ParseSigningKey(base64.StdEncoding.EncodeToString(private))
	if err != nil {
		t.Fatal(err)
	}
	client, err := cachix.New(cache.URL, fixture.APIKey, cachix.Options{PartSize: 5 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := cache.AddKey("default", key.Public()); err != nil {
		t.Fatal(err)
	}
	folder := everyKindOfFile(t)
	var paths []cachix.Path
	var references []string
	for i := range 4 {
		p := fixture.CachePath(t, folder, fmt.Sprintf("all+kinds-%d.0_?=x", i), references...)
		p.References = append(p.References, p.StorePath)
		references = append(references, p.StorePath)
		pushed, err := client.Push(t.Context(), p, func(w io.Writer) error { return nar.Dump(w, folder) }, key)
		if err == nil {
			err = client.Verify(t.Context(), p, pushed, key)
		}
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	last := paths[len(paths)-1]
	got, err := nixGets(t, cache.URL, "default:"+key.Public(), last)
	if err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	for _, p := range paths {
		if want := p.StorePath + " " + p.NarHash.String(); !strings.Contains(got, want) {
			t.Errorf("%q is not in the output of Nix:\n%s", want, got)
		}
	}
	_, private, _ = ed25519.GenerateKey(nil)
	other := base64.StdEncoding.EncodeToString(private[32:])
	if got, err := nixGets(t, cache.URL, "default:"+other, last); err == nil || !strings.Contains(got, "not signed by any of the keys") {
		t.Errorf("with another key trusted: %v: %s", err, got)
	}
}

// everyKindOfFile makes a folder with every kind of file of a store path. It is larger than one part of an upload.
func everyKindOfFile(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	random := make([]byte, 6<<20)
	rand.Read(random)
	err := errors.Join(os.WriteFile(root+"/large", random, 0o644), os.WriteFile(root+"/empty", nil, 0o644),
		os.WriteFile(root+"/run", []byte("#!/bin/sh\necho ran\n"), 0o755), os.Symlink("run", root+"/link"),
		os.Symlink("/nowhere", root+"/dangling"), os.Mkdir(root+"/nothing", 0o755),
		os.WriteFile(root+"/..dots", nil, 0o644), os.WriteFile(root+"/new\nline and öä", nil, 0o644),
		os.WriteFile(root+"/nothing.d", nil, 0o644), os.WriteFile(root+"/\xff", nil, 0o644))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// nixGets fetches a path with Nix in a new container, and returns Nix's description of its closure.
func nixGets(t *testing.T, url, trusted string, p cachix.Path) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	script := `exec 2>&1
nix-store --realise "$1" >/dev/null && nix-store --verify-path $(nix-store -qR "$1") &&
for p in $(nix-store -qR "$1"); do echo "$p $(nix-store -q --hash "$p")"; done && "$1/link"`
	command := exec.CommandContext(ctx, "docker", "run", "--rm", "--env",
		"NIX_CONFIG=require-sigs = true\nsubstituters = "+url+"\ntrusted-public-keys = "+trusted,
		fixture.Env.Image, "bash", "-c", script, "bash", p.StorePath)
	output, err := command.CombinedOutput()
	if err == nil && !strings.HasSuffix(string(output), "ran\n") {
		err = errors.New("its program did not run")
	}
	return string(output), err
}
