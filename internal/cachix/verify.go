package cachix

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
)

// Verify reads the narinfo of a path from the cache, and checks that its archive exists. If anything differs
// from the pushed path, it returns an error of the kind NotAsPushed. Its other errors are of the kinds of
// Cache. With a zero Pushed, for a path that someone else has pushed, the compressed file is not compared.
// With a nil key, no signature is required.
func (c *Client) Verify(ctx context.Context, p Path, pushed Pushed, key *SigningKey) error {
	return c.retrier.retry(ctx, func() error { return c.reader.verify(ctx, p, pushed, publicOf(key)) })
}

// Has reports whether the cache has a path, by the checks of Verify, with a signature by one of the public keys, which
// are given in base64. With keys, the archive may be that of another build of the path. Without keys, no signature is
// required.
func (c *Client) Has(ctx context.Context, p Path, keys ...string) (bool, error) {
	signers := publicKeys(keys)
	has := false
	err := c.retrier.retry(ctx, func() error {
		err := c.reader.has(ctx, p, signers)
		if errors.Is(err, NotAsPushed) {
			return nil
		}
		has = err == nil
		return err
	})
	return has, err
}

// HasOther reports whether the cache has a path of another build, with a signature by one of the public keys. It makes
// one attempt.
func (c *Client) HasOther(ctx context.Context, p Path, keys ...string) bool {
	signers := publicKeys(keys)
	return len(signers) > 0 && c.reader.hasOther(ctx, p, signers) == nil
}

// publicKeys decodes public keys in base64. It omits those that are invalid.
func publicKeys(texts []string) (keys []ed25519.PublicKey) {
	for _, text := range texts {
		if raw, err := base64.StdEncoding.DecodeString(text); err == nil && len(raw) == ed25519.PublicKeySize {
			keys = append(keys, raw)
		}
	}
	return keys
}

// Locate finds out where the cache can be read, which is needed for Verify: at the address to which paths are pushed,
// or at the address in the cache's properties. It returns false if the cache cannot be read at either.
func (c *Client) Locate(ctx context.Context, cache Cache) bool { return c.reader.locate(ctx, cache) }

// Address returns the address at which the cache can be read. Locate must be called first.
func (c *Client) Address() string { return c.reader.at }

// ReadableByNix returns the address at which Nix can read the cache with the API key as a password in a netrc file,
// which is the only way that Nix supports. It returns "" if Nix cannot. Locate must be called first.
func (c *Client) ReadableByNix(ctx context.Context) string { return c.reader.readableByNix(ctx) }
