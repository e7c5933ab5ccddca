package cachix_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"

	"iglu.sh/builder/internal/cachix"
	"iglu.sh/builder/internal/nar"
	"iglu.sh/builder/test/kit/devcache"
)

// Push one store path to a cache: get the cache's description, ask whether it has the path, push it, and verify
// what the cache then shows.
func Example() {
	if err := pushHello(context.Background(), os.Stdout); err != nil {
		fmt.Println(err)
	}
	// Output:
	// the cache default has 1 public key
	// missing: 1 path
	// pushed hello in 1 part
	// missing: 0 paths
}

func pushHello(ctx context.Context, out io.Writer) error {
	folder, err := os.MkdirTemp("", "cachix-example-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)

	// A cache for development, instead of https://cache.example.com.
	handler, err := devcache.New(devcache.Options{Folder: folder, Token: "API_KEY", Names: []string{"default"}})
	if err != nil {
		return err
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	client, err := cachix.New(server.URL+"/default", "API_KEY", cachix.Options{})
	if err != nil {
		return err
	}
	defer client.Close()

	// Nix accepts this key's signatures if it trusts the public half, which the cache publishes.
	key, err := cachix.ParseSigningKey("default:" + base64.StdEncoding.EncodeToString(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))))
	if err != nil {
		return err
	}
	if err := handler.AddKey("default", key.Public()); err != nil {
		return err
	}
	cache, err := client.Cache(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "the cache %s has %d public key\n", cache.Name, len(cache.Keys()))
	client.Locate(ctx, cache)

	// The path: a store has its hash and its size on record.
	hello := filepath.Join(folder, "hello")
	if err := os.WriteFile(hello, []byte("Hello from Iglu\n"), 0o444); err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := nar.Dump(&archive, hello); err != nil {
		return err
	}
	path := cachix.Path{
		StorePath: cachix.StoreDir + "0c5b1f3yhvz3bmvlrz4dgr0r5qs2k9wa-hello",
		NarHash:   sha256.Sum256(archive.Bytes()),
		NarSize:   int64(archive.Len()),
	}

	missing, err := client.Missing(ctx, []string{path.Hash()})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "missing: %d path\n", len(missing))
	pushed, err := client.Push(ctx, path, func(w io.Writer) error { return nar.Dump(w, hello) }, key)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "pushed %s in %d part\n", path.Name(), pushed.Parts)
	if err := client.Verify(ctx, path, pushed, key); err != nil {
		return err
	}
	if missing, err = client.Missing(ctx, []string{path.Hash()}); err != nil {
		return err
	}
	fmt.Fprintf(out, "missing: %d paths\n", len(missing))
	return nil
}
