// Package gitserver serves git repositories over HTTP with git's http-backend program, for the demo and
// the tests. [Publish] makes a repository, and [Serve] starts a [Server] at an address that containers can
// reach.
package gitserver

import (
	"crypto/subtle"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Server is an http.Handler that serves every repository below Root for reading. If Password is set, it
// requires User and Password (Basic authentication).
type Server struct {
	Root     string
	User     string
	Password string
}

// ServeHTTP serves one request of git's smart HTTP protocol.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.authorized(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
		http.Error(w, "these repositories require a user and a password", http.StatusUnauthorized)
		return
	}
	execPath, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		http.Error(w, "git is not installed", http.StatusInternalServerError)
		return
	}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(execPath)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + s.Root, "GIT_HTTP_EXPORT_ALL=1"},
		// It repeats there what it answers.
		Stderr: io.Discard,
	}
	backend.ServeHTTP(w, r)
}

func (s *Server) authorized(r *http.Request) bool {
	if s.Password == "" {
		return true
	}
	user, password, _ := r.BasicAuth()
	return subtle.ConstantTimeCompare([]byte(user+":"+password), []byte(s.User+":"+s.Password)) == 1
}

// Listen returns a listener on a free port that containers of the machine's Docker engine can reach. Its
// address is that of the engine's default bridge.
func Listen() (net.Listener, error) { return ListenAt("0") }

// ListenAt is Listen for a given port.
func ListenAt(port string) (net.Listener, error) {
	name, err := exec.Command("docker", "network", "inspect", "bridge",
		"--format", `{{index .Options "com.docker.network.bridge.name"}}`).Output()
	if err != nil {
		return nil, fmt.Errorf("ask the engine for its bridge: %w", err)
	}
	bridge, err := net.InterfaceByName(strings.TrimSpace(string(name)))
	if err != nil {
		return nil, fmt.Errorf("the engine's bridge is not on this machine: %w", err)
	}
	addresses, err := bridge.Addrs()
	if err != nil {
		return nil, err
	}
	for _, address := range addresses {
		if ip, ok := address.(*net.IPNet); ok && ip.IP.To4() != nil {
			return net.Listen("tcp", net.JoinHostPort(ip.IP.String(), port))
		}
	}
	return nil, fmt.Errorf("the engine's bridge %s has no address", bridge.Name)
}

// Serve serves a handler at an address of Listen and returns its URL without a path. Call stop to end it.
func Serve(handler http.Handler) (url string, stop func() error, err error) {
	listener, err := Listen()
	if err != nil {
		return "", nil, fmt.Errorf("listen at an address for containers: %w", err)
	}
	server := &http.Server{Handler: handler}
	go server.Serve(listener)
	return "http://" + listener.Addr().String(), server.Close, nil
}

// Publish makes a repository below root. Its branch main has one commit with the files of folder.
func Publish(root, name, folder string) error {
	repository := filepath.Join(root, name)
	if err := os.CopyFS(repository, os.DirFS(folder)); err != nil {
		return fmt.Errorf("publish %s: %w", name, err)
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"},
		{"add", "."},
		{"commit", "--quiet", "--message=" + name},
	} {
		if err := Git(repository, args...); err != nil {
			return fmt.Errorf("publish %s: %w", name, err)
		}
	}
	return nil
}

// Git runs git in a repository with a fixed author and without the machine's configuration.
func Git(repository string, args ...string) error {
	command := exec.Command("git", append([]string{"-C", repository, "-c", "commit.gpgsign=false"}, args...)...)
	command.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=Iglu", "GIT_AUTHOR_EMAIL=iglu@example.com",
		"GIT_COMMITTER_NAME=Iglu", "GIT_COMMITTER_EMAIL=iglu@example.com")
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w: %s", args[0], err, output)
	}
	return nil
}
