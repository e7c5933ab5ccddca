package cachix

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"log/slog"
	"strings"
)

// A SigningKey signs paths. Printing it never shows the secret.
type SigningKey struct{ private ed25519.PrivateKey }

// Errors of ParseSigningKey, for the person who configured the key.
var (
	errKeyForm = errors.New("the signing key is not the base64 of 64 bytes, as 'cachix generate-keypair' writes it")
	errKeyHalf = errors.New("the signing key's second half is not the public key of its first half")
)

// ParseSigningKey parses the base64 of 64 bytes: an Ed25519 seed and its public key. It accepts the 'NAME:'
// that Nix writes before it, and white space around it. Its errors contain no part of the text.
func ParseSigningKey(text string) (*SigningKey, error) {
	text = strings.TrimSpace(text)
	if _, encoded, named := strings.Cut(text, ":"); named {
		text = encoded
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) != ed25519.PrivateKeySize {
		return nil, errKeyForm
	}
	private := ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize])
	if !bytes.Equal(private, raw) {
		return nil, errKeyHalf
	}
	return &SigningKey{private}, nil
}

// Public returns the base64 of the public half, as in Nix's trusted-public-keys after 'NAME:'.
func (k *SigningKey) Public() string {
	return base64.StdEncoding.EncodeToString(k.public())
}

func (k *SigningKey) public() ed25519.PublicKey {
	return k.private.Public().(ed25519.PublicKey)
}

// Sign returns the base64 of the signature of a path's fingerprint.
func (k *SigningKey) Sign(fingerprint string) string {
	return base64.StdEncoding.EncodeToString(ed25519.Sign(k.private, []byte(fingerprint)))
}

// String, GoString and LogValue show the public half only.
func (k *SigningKey) String() string       { return "signing key of " + k.Public() }
func (k *SigningKey) GoString() string     { return k.String() }
func (k *SigningKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// publicOf returns the public half of a key as a list, which is empty if key is nil.
func publicOf(key *SigningKey) []ed25519.PublicKey {
	if key == nil {
		return nil
	}
	return []ed25519.PublicKey{key.public()}
}

// publicKey returns the base64 of a public key, which may have 'NAME:' before it, and white space around it, as in the
// file from which it was registered. It also returns whether the key is valid.
func publicKey(text string) (string, bool) {
	if _, encoded, named := strings.Cut(text, ":"); named {
		text = encoded
	}
	text = strings.TrimSpace(text)
	raw, err := base64.StdEncoding.DecodeString(text)
	return text, err == nil && len(raw) == ed25519.PublicKeySize
}
