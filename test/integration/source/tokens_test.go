//go:build integration

package source

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
	"iglu.sh/builder/test/kit/gitserver"
)

// A forge is a host of private git repositories like GitLab. Its API accepts a bearer token, and git accepts the same
// token as a password. It also has archives that require a user and a password.
type forge struct {
	t     *testing.T
	git   gitserver.Server
	calls http.ServeMux
}

func newForge(t *testing.T) *forge {
	g := &fixture.Env.Git
	f := &forge{t: t, git: gitserver.Server{Root: g.Root, User: "oauth2", Password: fixture.AccessToken}}
	f.calls.HandleFunc("GET /api/v4/projects/{project}/repository/commits", f.withToken(func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode([]map[string]string{{"id": f.head(r)}})
	}))
	f.calls.HandleFunc("GET /api/v4/projects/{project}/repository/archive.tar.gz", f.withToken(f.archive))
	f.calls.HandleFunc("GET /archives/{project}/a.tar.gz", func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "reader" || password != fixture.NetrcPassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="archives"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		f.archive(w, r)
	})
	f.calls.Handle("/", &f.git)
	return f
}

func (f *forge) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.calls.ServeHTTP(w, r) }

func (f *forge) withToken(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+fixture.AccessToken {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next(w, r)
	}
}

func (f *forge) folder(r *http.Request) string {
	_, name, _ := strings.Cut("/"+r.PathValue("project"), "/")
	return filepath.Join(f.git.Root, name[strings.LastIndex(name, "/")+1:])
}

func (f *forge) head(r *http.Request) string {
	id, err := exec.Command("git", "-C", f.folder(r), "rev-parse", "main").Output()
	if err != nil {
		f.t.Error(err)
	}
	return strings.TrimSpace(string(id))
}

func (f *forge) archive(w http.ResponseWriter, r *http.Request) {
	archive := exec.Command("git", "-C", f.folder(r), "archive", "--format=tar.gz", "--prefix=it/", "main")
	archive.Stdout = w
	if err := archive.Run(); err != nil {
		f.t.Error(err)
	}
}

// TestTokens builds flakes with private inputs on another host than their repository. The credentials are a bearer
// token, the same token as git's password, a netrc, or a token of the operator. Without credentials, the fetch fails.
func TestTokens(t *testing.T) {
	host := fixture.ServeTLS(t, newForge(t)) // shared by all, because it needs port 443
	fixture.OnEngines(t, func(t *testing.T, e *fixture.Engine) { tokens(t, e, host) })
}

func tokens(t *testing.T, e *fixture.Engine, host string) {
	image := e.Trusting(t)
	conf := filepath.Join(t.TempDir(), "nix.conf")
	if err := os.WriteFile(conf, []byte("access-tokens = "+host+"=OAuth2:"+fixture.AccessToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	job := e.Server(t, func(s *server.Settings) { s.JobImage = image })
	operator := e.Server(t, func(s *server.Settings) { s.JobImage, s.NixConfFile = image, conf })
	tokens := schemas.Nix{AccessTokens: map[string]string{host: "OAuth2:" + fixture.AccessToken}}
	netrc := schemas.Nix{Netrc: "machine " + host + "\n  login reader\n  password " + fixture.NetrcPassword + "\n"}
	netrcOfGit := schemas.Nix{Netrc: "machine " + host + " login oauth2 password " + fixture.AccessToken}
	inputs := map[string]string{
		"bearer":  "gitlab:group/hello?host=" + host,
		"git":     "git+https://" + host + "/hello",
		"archive": "https://" + host + "/archives/hello/a.tar.gz",
	}
	urls := make(map[string]string)
	for name, input := range inputs {
		repository := "tokens-" + name + "-" + strings.ToLower(rand.Text()[:10])
		flake := `{ inputs.hello.url = "` + input + `"; outputs = { self, hello }: { packages = hello.packages; }; }`
		if err := fixture.Env.Git.Commit(repository, "main", map[string]string{"flake.nix": flake}); err != nil {
			t.Fatal(err)
		}
		urls[name] = fixture.Env.Git.Public + "/" + repository
	}
	type row struct {
		name, input string
		server      *fixture.Server
		nix         schemas.Nix
		fails       bool
	}
	rows := []row{
		{"bearer token", "bearer", job, tokens, false},
		{"token for git", "git", job, tokens, false},
		{"token for git of the operator", "git", operator, schemas.Nix{}, false},
		{"netrc", "archive", job, netrc, false},
		{"netrc, none", "archive", job, schemas.Nix{}, true},
		// In the long suite only:
		{"bearer token, none", "bearer", job, schemas.Nix{}, true},
		{"bearer token of the operator", "bearer", operator, schemas.Nix{}, false},
		{"token for git, none", "git", job, schemas.Nix{}, true},
		{"netrc for git", "git", job, netrcOfGit, false},
	}
	for _, test := range rows[:fixture.Size(5, len(rows))] {
		t.Run(test.name, func(t *testing.T) {
			j := fixture.Build(urls[test.input], "nix build -L --no-link")
			j.Nix = test.nix
			got := fixture.Do(t, test.server, j)
			if test.fails {
				fixture.WantExit(t, got, 1)
				return
			}
			fixture.WantExit(t, got, 0)
			fixture.WantLine(t, got, fixture.Hello)
		})
	}
}
