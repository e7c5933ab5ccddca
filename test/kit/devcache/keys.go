package devcache

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// register adds a public signing key to the cache.
func (s *Server) register(c *cache, w http.ResponseWriter, r *http.Request) error {
	var request struct {
		PublicKey string `json:"publicKey"`
	}
	if err := decode(r, &request); err != nil {
		return err
	}
	if err := c.addKey(request.PublicKey); err != nil {
		return err
	}
	return answer(w, map[string]string{})
}

// AddKey adds a public signing key to the cache with a name. The key is base64, with or without 'NAME:'
// before it. It is not an error if the cache already has the key.
func (s *Server) AddKey(name, key string) error {
	c, err := s.cache(name)
	if err != nil {
		return err
	}
	return c.addKey(key)
}

func (c *cache) addKey(text string) error {
	if _, encoded, named := strings.Cut(text, ":"); named {
		text = encoded
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return bad("the public key is not the base64 of 32 bytes")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range c.keys {
		if key.Data.Equal(ed25519.PublicKey(raw)) {
			return nil
		}
	}
	file, err := os.OpenFile(filepath.Join(c.folder, keyFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(file, text)
	if err = errors.Join(err, file.Close()); err == nil {
		c.keys = append(c.keys, signature.PublicKey{Name: c.name, Data: raw})
	}
	return err
}

// dropKeys removes all keys.
func (c *cache) dropKeys() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys = nil
	return os.WriteFile(filepath.Join(c.folder, keyFile), nil, 0o644)
}

// readKeys reads the keys that an earlier process stored.
func (c *cache) readKeys() error {
	text, err := os.ReadFile(filepath.Join(c.folder, keyFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, line := range strings.Fields(string(text)) {
		key, err := signature.ParsePublicKey(c.name + ":" + line)
		if err != nil {
			return fmt.Errorf("keys of the cache %s: %w", c.name, err)
		}
		c.keys = append(c.keys, key)
	}
	return nil
}

// publicKeys returns the cache's keys with the cache's name, as Nix's setting of trusted keys needs them.
func (c *cache) publicKeys() []signature.PublicKey {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keys // the slice may be appended to, but its elements do not change
}
