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

// register adds a public signing key to the cache's.
func (s *Server) register(c cache, w http.ResponseWriter, r *http.Request) error {
	var request struct {
		PublicKey string `json:"publicKey"`
	}
	if err := decode(r, &request); err != nil {
		return err
	}
	if err := s.addKey(c, request.PublicKey); err != nil {
		return err
	}
	return answer(w, map[string]string{})
}

// AddKey adds a public signing key to those of the cache of a name: base64, with or
// without a 'NAME:' in front. A key that is there already is no error.
func (s *Server) AddKey(name, key string) error {
	c, err := s.cache(name)
	if err != nil {
		return err
	}
	return s.addKey(c, key)
}

func (s *Server) addKey(c cache, text string) error {
	if _, encoded, named := strings.Cut(text, ":"); named {
		text = encoded
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return bad("the public key is not the base64 of 32 bytes")
	}
	keys, err := s.publicKeys(c)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if key.Data.Equal(ed25519.PublicKey(raw)) {
			return nil
		}
	}
	s.keys.Lock()
	defer s.keys.Unlock()
	file, err := os.OpenFile(filepath.Join(c.folder, keyFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(file, text)
	return errors.Join(err, file.Close())
}

// publicKeys returns the cache's keys, each under the cache's name: what Nix trusts.
func (s *Server) publicKeys(c cache) ([]signature.PublicKey, error) {
	s.keys.RLock()
	defer s.keys.RUnlock()
	text, err := os.ReadFile(filepath.Join(c.folder, keyFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var keys []signature.PublicKey
	for _, line := range strings.Fields(string(text)) {
		key, err := signature.ParsePublicKey(c.name + ":" + line)
		if err != nil {
			return nil, fmt.Errorf("keys of the cache %s: %w", c.name, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}
