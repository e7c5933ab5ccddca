package cachix

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
)

// Verify reads back what the cache says of a path, and that its archive is there, and
// returns how that differs from what was pushed: an error of the kind NotAsPushed, or of
// those of Cache. A zero Pushed stands for a path that somebody else has pushed: its file is
// not compared. With no key, no signature is asked for.
func (c *Client) Verify(ctx context.Context, p Path, pushed Pushed, key *SigningKey) error {
	return c.retrier.retry(ctx, func() error { return c.reader.verify(ctx, p, pushed, publicOf(key)) })
}

// Has reports whether the cache has a path, as Verify finds out, signed by one of some public
// keys, base64 each. With no keys, no signature is asked for.
func (c *Client) Has(ctx context.Context, p Path, keys ...string) (bool, error) {
	signers := publicOf(nil)
	for _, text := range keys {
		if raw, err := base64.StdEncoding.DecodeString(text); err == nil && len(raw) == ed25519.PublicKeySize {
			signers = append(signers, raw)
		}
	}
	has := false
	err := c.retrier.retry(ctx, func() error {
		err := c.reader.verify(ctx, p, Pushed{}, signers)
		if errors.Is(err, NotAsPushed) {
			return nil
		}
		has = err == nil
		return err
	})
	return has, err
}

// Locate finds out where the cache can be read, for Verify: where it is pushed to, or
// where it says that it is. Without that, or where a private cache does not let itself be read, it
// reports false.
func (c *Client) Locate(ctx context.Context, cache Cache) bool { return c.reader.locate(ctx, cache) }

// ReadableByNix returns where Nix can read the cache if it shows the API key as the password of a
// netrc, which is the only way that it knows, or "". It can be asked after Locate.
func (c *Client) ReadableByNix(ctx context.Context) string { return c.reader.readableByNix(ctx) }
