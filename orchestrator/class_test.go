package orchestrator

import (
	"log/slog"
	"testing"

	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/schemas"
)

// A classed fixture returns which stores jobs have.
type classed struct {
	pool      *stores.Pool
	options   Options
	sandboxed bool
}

// classedAs returns one with stores of a mode in a folder.
func classedAs(mode stores.Mode, folder string) *classed {
	options := stores.Options{Instance: "test", Mode: mode, Folder: folder}
	return &classed{pool: stores.New(nil, options, slog.New(slog.DiscardHandler))}
}

// store returns the name of the store for a request, or "".
func (c *classed) store(t *testing.T, r *schemas.Request, user JobUser) string {
	t.Helper()
	options := c.options
	options.JobUser = user
	key, _, err := c.pool.KeyOf(storeOf(r, options, c.sandboxed, engine.Image{ID: "sha256:1", Platform: "linux/amd64"}))
	if err != nil {
		t.Fatal(err)
	}
	return key.Name
}

// pushing is a request with all keys.
func pushing() *schemas.Request {
	return &schemas.Request{
		Git: schemas.Git{Repository: "https://example.com/owner/name.git", Branch: "main", GitKey: "git-key"},
		BuildOptions: schemas.BuildOptions{
			Command: "nix build", TrustedPublicKeys: []string{"a-1:YQ==", "b-1:Yg=="},
			Cachix: schemas.Cachix{Push: true, Target: "https://cache.example.com/c", APIKey: "api-key", SigningKey: "signing-key"},
		},
		Nix: schemas.Nix{AccessTokens: map[string]string{"github.com": "token"}, Netrc: "machine a password b"},
	}
}

// TestNobodyElsesStore checks that other jobs do not get the store of a job with keys: with other spellings of its
// repository, from a branch and from a fork, with other keys and without keys.
func TestNobodyElsesStore(t *testing.T) {
	d := classedAs(stores.Repository, t.TempDir())
	own := d.store(t, pushing(), UserNix)
	attempts := map[string]func(*schemas.Request){
		"a fork":              func(r *schemas.Request) { r.Git.Repository = "https://example.com/fork/name.git" },
		"no push":             func(r *schemas.Request) { r.BuildOptions.Cachix = schemas.Cachix{} },
		"no push, but keys":   func(r *schemas.Request) { r.BuildOptions.Cachix.Push = false },
		"another signing key": func(r *schemas.Request) { r.BuildOptions.Cachix.SigningKey = "other" },
		"another cache":       func(r *schemas.Request) { r.BuildOptions.Cachix.Target = "https://cache.example.com/other" },
		"no tokens":           func(r *schemas.Request) { r.Nix = schemas.Nix{} },
		"another token":       func(r *schemas.Request) { r.Nix.AccessTokens = map[string]string{"github.com": "other"} },
		"one token more": func(r *schemas.Request) {
			r.Nix.AccessTokens = map[string]string{"github.com": "token", "gitlab.com": "token"}
		},
		"no netrc":       func(r *schemas.Request) { r.Nix.Netrc = "" },
		"no signing key": func(r *schemas.Request) { r.BuildOptions.Cachix.SigningKey = "" },
		"one key more": func(r *schemas.Request) {
			r.BuildOptions.TrustedPublicKeys = append(r.BuildOptions.TrustedPublicKeys, "c-1:Yw==")
		},
		"one key less":          func(r *schemas.Request) { r.BuildOptions.TrustedPublicKeys = r.BuildOptions.TrustedPublicKeys[:1] },
		"a trusted substituter": func(r *schemas.Request) { r.BuildOptions.Substituters = []string{"http://x?trusted=1"} },
		"the key as an API key": func(r *schemas.Request) {
			r.BuildOptions.Cachix.SigningKey, r.BuildOptions.Cachix.APIKey = "", "signing-key"
		},
		"keys in one text": func(r *schemas.Request) { r.BuildOptions.TrustedPublicKeys = []string{"a-1:YQ== b-1:Yg=="} },
		"the URL and a line end": func(r *schemas.Request) {
			r.Git.Repository, r.BuildOptions.TrustedPublicKeys = r.Git.Repository+"\na-1:YQ==", r.BuildOptions.TrustedPublicKeys[1:]
		},
	}
	spellings := []string{
		"http://example.com/owner/name.git", "https://EXAMPLE.com/owner/name.git", "https://example.com:443/owner/name.git",
		"https://example.com/owner/name", "https://example.com/owner/name.git/", "https://example.com//owner/name.git",
		"https://example.com/owner/./name.git", "https://example.com/x/../owner/name.git", "https://example.com/owner/%6eame.git",
		"https://user@example.com/owner/name.git", "https://example.com/Owner/name.git", "https://example.com./owner/name.git",
		"ssh://git@example.com/owner/name.git", "git@example.com:owner/name.git", "git://example.com/owner/name.git",
		"https://example.com/owner/name.git?x=1", "https://example.com/owner/name.git#x", "HTTPS://example.com/owner/name.git",
		" https://example.com/owner/name.git", "https://example.com/owner/name.git ",
	}
	for _, spelling := range spellings {
		attempts["spelt "+spelling] = func(r *schemas.Request) { r.Git.Repository = spelling }
		attempts["without keys, spelt "+spelling] = func(r *schemas.Request) {
			r.Git.Repository, r.BuildOptions.Cachix = spelling, schemas.Cachix{}
		}
	}
	for name, attempt := range attempts {
		r := pushing()
		attempt(r)
		if d.store(t, r, UserNix) == own {
			t.Errorf("%s: it is the store of the job with keys", name)
		}
	}
	if d.store(t, pushing(), UserRoot) == own {
		t.Error("root has the store of those who are not")
	}
	if classedAs(stores.Repository, t.TempDir()).store(t, pushing(), UserNix) == own {
		t.Error("the name of the store tells the signing key")
	}
}

// TestStoreOfSandbox checks that builds in Nix's own sandbox get no store with results of others, which may depend on
// more than their inputs: after the operator has switched the sandbox on, all results are of builds in it.
func TestStoreOfSandbox(t *testing.T) {
	for _, mode := range []stores.Mode{stores.Repository, stores.Shared} {
		d := classedAs(mode, t.TempDir())
		without := d.store(t, pushing(), UserNix)
		if d.sandboxed = true; d.store(t, pushing(), UserNix) == without {
			t.Errorf("%s: they share a store", mode)
		}
	}
}

// TestStoreWithoutSignatures checks that a job shares its store only with jobs of the same substituters if the operator
// has Nix accept paths without signatures: otherwise a job could name a substituter of its own, and later jobs had from
// their store what that has made up.
func TestStoreWithoutSignatures(t *testing.T) {
	named := pushing()
	named.BuildOptions.Substituters = []string{"https://made-up.example"}
	for lines, shared := range map[string]bool{
		"": true, "require-sigs = true\n": true, "require-sigs = false\nrequire-sigs = true\n": true,
		"require-sigs = false\n": false, "require-sigs = no\n": false, "require-sigs = 0\n": false,
	} {
		d := classedAs(stores.Repository, t.TempDir())
		d.options.Nix.Lines = lines
		if got := d.store(t, named, UserNix) == d.store(t, pushing(), UserNix); got != shared {
			t.Errorf("%q: they share a store: %t", lines, got)
		}
	}
}

// TestStoreOfReaders checks that a job which may read private sources shares no store with jobs that may not, or that may
// read others, whatever gives it access: what it has fetched is in the store.
func TestStoreOfReaders(t *testing.T) {
	d := classedAs(stores.Repository, t.TempDir())
	seen := make(map[string]string)
	for name, nix := range map[string]schemas.Nix{
		"none": {}, "token": {AccessTokens: map[string]string{"github.com": "token"}}, "other token": {AccessTokens: map[string]string{"github.com": "other"}},
		"netrc": {Netrc: "machine a password b"}, "other netrc": {Netrc: "machine a password c"},
	} {
		r := pushing()
		r.Nix = nix
		store := d.store(t, r, UserNix)
		if other, ok := seen[store]; ok {
			t.Errorf("%s and %s: one store", name, other)
		}
		seen[store] = name
	}
}

// TestClassOfOperator checks that the store depends on the operator's settings: after a setting has changed, jobs get
// other stores, without paths that are not trusted any more.
func TestClassOfOperator(t *testing.T) {
	folder := t.TempDir()
	seen := make(map[string]string)
	for name, nix := range map[string]NixSettings{
		"none": {}, "keys": {Trust: []string{"extra-trusted-public-keys = a"}}, "other keys": {Trust: []string{"extra-trusted-public-keys = b"}},
		"flakes": {AcceptFlakeConfig: true},
	} {
		d := classedAs(stores.Repository, folder)
		d.options.Nix = nix
		store := d.store(t, pushing(), UserNix)
		if other, ok := seen[store]; ok {
			t.Errorf("%s and %s: one store", name, other)
		}
		seen[store] = name
		side := pushing()
		side.Git.Branch = "side"
		if same := d.store(t, side, UserNix) == store; same == nix.AcceptFlakeConfig {
			t.Errorf("%s: another branch has the same store: %v", name, same)
		}
	}
	d := classedAs(stores.Repository, folder)
	d.options.Nix = NixSettings{Lines: "max-jobs = 3\n", AccessTokens: map[string]string{"github.com": "t"}}
	if seen[d.store(t, pushing(), UserNix)] != "none" {
		t.Error("settings that say nothing of trust change the store")
	}
}

// TestSameClass changes settings that do not affect which keys are trusted: the store is the same.
func TestSameClass(t *testing.T) {
	d := classedAs(stores.Repository, t.TempDir())
	own := d.store(t, pushing(), UserNix)
	for name, change := range map[string]func(*schemas.Request){
		"another git key": func(r *schemas.Request) { r.Git.GitKey = "minted for this job" },
		"another branch":  func(r *schemas.Request) { r.Git.Branch = "side" },
		"another API key": func(r *schemas.Request) { r.BuildOptions.Cachix.APIKey = "other" },
		"a substituter":   func(r *schemas.Request) { r.BuildOptions.Substituters = []string{"https://cache.example.com"} },
		"keys in another order, one twice": func(r *schemas.Request) {
			r.BuildOptions.TrustedPublicKeys = []string{"b-1:Yg==", "a-1:YQ==", "b-1:Yg=="}
		},
	} {
		r := pushing()
		change(r)
		if d.store(t, r, UserNix) != own {
			t.Errorf("%s: it is another store", name)
		}
	}
	shared := classedAs(stores.Shared, t.TempDir())
	if shared.store(t, pushing(), UserNix) != shared.store(t, &schemas.Request{Git: schemas.Git{NoClone: true}}, UserNix) {
		t.Error("not all jobs share the store that all share")
	}
	if shared.store(t, pushing(), UserNix) == shared.store(t, pushing(), UserRoot) {
		t.Error("root shares the store of those who are not")
	}
	for _, none := range []string{
		classedAs(stores.Ephemeral, t.TempDir()).store(t, pushing(), UserNix),
		d.store(t, &schemas.Request{Git: schemas.Git{NoClone: true}}, UserNix),
	} {
		if none != "" {
			t.Errorf("the store %s, want none", none)
		}
	}
}
