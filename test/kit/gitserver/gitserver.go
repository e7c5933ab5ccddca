// Package gitserver serves git repositories over HTTP with git's own server
// program, for the demo and the tests.
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

// Server is an http.Handler that serves every repository below Root for reading.
// With a Password, it asks for User and Password (Basic authentication).
type Server struct {
	Root     string
	User     string
	Password string
}

// ServeHTTP serves one request of git's smart HTTP protocol.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.authorized(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
		http.Error(w, "the repositories here need a user and a password", http.StatusUnauthorized)
		return
	}
	execPath, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		http.Error(w, "git is not installed here", http.StatusInternalServerError)
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

// Listen returns a listener on a free port of the address at which containers of the
// machine's own Docker engine reach the machine: that of the engine's default bridge.
func Listen() (net.Listener, error) { return ListenAt("0") }

// ListenAt is Listen for a port that is not chosen freely.
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

// Serve serves a handler at an address that Listen chooses, until the function that it
// returns is called, and returns its URL without a path.
func Serve(handler http.Handler) (url string, stop func() error, err error) {
	listener, err := Listen()
	if err != nil {
		return "", nil, fmt.Errorf("serve where containers reach it: %w", err)
	}
	server := &http.Server{Handler: handler}
	go server.Serve(listener)
	return "http://" + listener.Addr().String(), server.Close, nil
}

// Publish makes a repository named name below root whose one commit, on the branch
// main, holds the files of folder.
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

// Git runs git in a repository as somebody who exists on no machine, without the
// machine's own configuration.
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
