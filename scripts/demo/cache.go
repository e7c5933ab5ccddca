package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"iglu.sh/builder/test/kit/devcache"
	"iglu.sh/builder/test/kit/gitserver"
)

// A binaryCache is the cache of the demo, with new keys.
type binaryCache struct {
	url        string
	token      string // the API key
	signingKey string
	publicKey  string // in the format of Nix's setting of trusted keys
	close      func() error
}

func serveCache(folder string) (*binaryCache, error) {
	const name = "default"
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	c := &binaryCache{
		token:      rand.Text(),
		signingKey: base64.StdEncoding.EncodeToString(private),
		publicKey:  name + ":" + base64.StdEncoding.EncodeToString(public),
	}
	cache, err := devcache.New(devcache.Options{Folder: filepath.Join(folder, "cache"), Token: c.token, Names: []string{name}})
	if err != nil {
		return nil, err
	}
	if err := cache.AddKey(name, c.publicKey); err != nil {
		return nil, err
	}
	if c.url, c.close, err = gitserver.Serve(cache); err != nil {
		return nil, err
	}
	c.url += "/" + name
	say("A binary cache serves %s and trusts %s", c.url, c.publicKey)
	return c, nil
}

// copyBack fetches a path from the cache with Nix in a new container, and shows it.
func (c *binaryCache) copyBack(ctx context.Context, image, path string) error {
	script := fmt.Sprintf("nix copy --from %s %s && cat %[2]s", c.url, path)
	say("Nix in another container, with require-sigs = true: %s", script)
	nix := exec.CommandContext(ctx, "docker", "run", "--rm", "--env",
		"NIX_CONFIG=extra-experimental-features = nix-command\nrequire-sigs = true\ntrusted-public-keys = "+c.publicKey,
		image, "sh", "-c", script)
	nix.Stdout, nix.Stderr = os.Stdout, os.Stdout
	if err := nix.Run(); err != nil {
		return fmt.Errorf("copy the result back: %w", err)
	}
	return nil
}
