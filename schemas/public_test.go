package schemas

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPublic(t *testing.T) {
	request, _, err := ParseRequest([]byte(validJob), []string{"nix"})
	if err != nil {
		t.Fatal(err)
	}
	request.BuildOptions.Substituters = []string{"https://canary-user:canary-password@canary.example/a?priority=1", "https://canary.example/b"}
	request.BuildOptions.Cachix.Target = "https://canary-token@canary.example/default"
	before, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	got := request.Public()
	want := *request
	want.Git.GitKey = ""
	want.BuildOptions.Cachix = Cachix{Target: "https://canary.example/default"}
	want.BuildOptions.Substituters = []string{"https://canary.example/a?priority=1", "https://canary.example/b"}
	want.Nix = Nix{AccessTokens: map[string]string{"canary.example": "", "canary.example/group": ""}}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("the public request (-want +got):\n%s", diff)
	}
	if after, _ := json.Marshal(request); string(after) != string(before) {
		t.Errorf("the request has become %s", after)
	}
}

func TestSecretNames(t *testing.T) {
	for job, want := range map[string][]string{
		`{"git":{"noClone":true},"buildOptions":{"command":"nix build","cachix":{"push":false}}}`:                                                  nil,
		`{"git":{"noClone":true},"buildOptions":{"command":"nix build","cachix":{"push":false}},"nix":{"netrc":"machine a password canary-word"}}`: {"netrc"},
		validJob: {"gitKey", "accessTokens", "netrc", "apiKey", "signingKey"},
	} {
		request, _, err := ParseRequest([]byte(job), []string{"nix"})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, request.SecretNames()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", job, diff)
		}
	}
}

func TestWithoutUser(t *testing.T) {
	for address, want := range map[string]string{
		"https://a:b@host/path":       "https://host/path",
		"http://token@host":           "http://host",
		"ssh://git:word@host:22/a":    "ssh://git@host:22/a",
		"git@host:a/b":                "git@host:a/b",
		"https://host/@a":             "https://host/@a",
		"https://cache.nixos.org?a=b": "https://cache.nixos.org?a=b",
		"":                            "",
	} {
		if got := withoutUser(address); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}
