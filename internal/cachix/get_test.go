package cachix

import (
	"encoding/base64"
	"testing"
)

// A trusted key has the name of its cache. Without a key, or with an address that is none, there is no trusted key.
func TestTrustedKey(t *testing.T) {
	key := newKey(t)
	text := base64.StdEncoding.EncodeToString(key.private)
	for _, test := range []struct{ target, signingKey, want string }{
		{"https://cache.example.com/default", text, "default:" + key.Public()},
		{"https://cache.example.com/default/", "other-1:" + text, "default:" + key.Public()},
		{"https://cache.example.com/default", "", ""},
		{"https://cache.example.com/default", text[4:], ""},
		{"https://[::1/default", text, ""},
	} {
		if got := TrustedKey(test.target, test.signingKey); got != test.want {
			t.Errorf("of %s: %s, want %s", test.target, got, test.want)
		}
	}
}

func TestGetCommand(t *testing.T) {
	const command = "nix-store --realise /nix/store/a --option extra-substituters https://c"
	for _, test := range []struct {
		keys []string
		want string
	}{
		{nil, command},
		{[]string{"c:a="}, command + " --option extra-trusted-public-keys c:a="},
		{[]string{"c:a=", "c-1:a="}, command + " --option extra-trusted-public-keys 'c:a= c-1:a='"},
	} {
		if got := GetCommand("https://c", test.keys, []string{"/nix/store/a"}); got != test.want {
			t.Errorf("%q: %s, want %s", test.keys, got, test.want)
		}
	}
}
