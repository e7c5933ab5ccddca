package cachix

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"log/slog"
	"strings"
)

// A SigningKey signs what is pushed. Nothing that prints it shows the secret.
type SigningKey struct{ private ed25519.PrivateKey }

// Errors of ParseSigningKey, in words for whoever set the key.
var (
	errKeyForm = errors.New("the signing key is not the base64 of 64 bytes, as 'cachix generate-keypair' writes it")
	errKeyHalf = errors.New("the signing key's second half is not the public key of its first half")
)

// ParseSigningKey reads the base64 of 64 bytes, an Ed25519 seed and its public key,
// with or without the 'NAME:' that Nix puts in front. White space around it does not
// count. Its errors hold nothing of the text.
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

// Public returns the base64 of the public half, as it stands after 'NAME:' in what
// Nix trusts.
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

// String, GoString and LogValue name the key by its public half.
func (k *SigningKey) String() string       { return "signing key of " + k.Public() }
func (k *SigningKey) GoString() string     { return k.String() }
func (k *SigningKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// publicOf returns the public half of a key, or nothing of none.
func publicOf(key *SigningKey) []ed25519.PublicKey {
	if key == nil {
		return nil
	}
	return []ed25519.PublicKey{key.public()}
}

// publicKey returns the base64 of a public key that is written with or without
// 'NAME:' in front, and whether it is one.
func publicKey(text string) (string, bool) {
	if _, encoded, named := strings.Cut(text, ":"); named {
		text = encoded
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	return text, err == nil && len(raw) == ed25519.PublicKeySize
}
