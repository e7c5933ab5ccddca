// Package server starts a builder, bin/iglu-builder, for a script. [Start] starts it, and [Server.Stop] removes
// everything of it.
package server

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
)

// Program is the path of the builder's program, relative to the project's folder.
const Program = "bin/iglu-builder"

// A Server is a builder in a separate process. It has a unique instance name, so that several can use one engine.
type Server struct {
	Address  string // the address that it listens on, host:port
	Instance string // the name in the labels of its objects on the engine

	process *exec.Cmd
	state   string // its state folder
}

var listening = regexp.MustCompile(`msg=listening addr=(\S+)`)

// Start starts a builder on a free port, with more flags of the command serve. It returns when the builder listens.
func Start(flags ...string) (*Server, error) { return StartOn("", flags...) }

// StartOn is Start for the engine at a host in the format of DOCKER_HOST. An empty host is the script's own engine.
func StartOn(host string, flags ...string) (*Server, error) {
	state, err := os.MkdirTemp("", "iglu-builder-")
	if err != nil {
		return nil, err
	}
	s := &Server{Instance: "script-" + strings.ToLower(rand.Text()[:10]), state: state}
	s.process = exec.Command(Program, append([]string{"serve", "--listen", "127.0.0.1:0", "--log-format", "text", "--log-level", "info",
		"--instance", s.Instance, "--state-dir", state}, flags...)...)
	if host != "" {
		s.process.Env = append(os.Environ(), "DOCKER_HOST="+host)
	}
	// Ctrl-C must reach only the script, which then stops the server.
	s.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := s.process.StderrPipe()
	if err == nil {
		err = s.process.Start()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(state))
	}
	var said bytes.Buffer
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			s.Address = m[1]
			go io.Copy(io.Discard, log)
			return s, nil
		}
		fmt.Fprintln(&said, lines.Text())
	}
	return nil, fmt.Errorf("builder does not start: %w\n%s", s.Stop(), said.String())
}

// PID returns the id of its process.
func (s *Server) PID() int { return s.process.Process.Pid }

// RemoveStores removes the Nix stores that the builder keeps between jobs.
func (s *Server) RemoveStores() error {
	return exec.Command(Program, "stores", "rm", "--all", "--instance", s.Instance, "--state-dir", s.state).Run()
}

// Stop ends the builder and removes what it keeps, on the engine and on the disk.
func (s *Server) Stop() error {
	s.process.Process.Signal(syscall.SIGTERM)
	return errors.Join(s.process.Wait(), s.RemoveStores(), exec.Command(Program, "cleanup", "--instance", s.Instance).Run(),
		os.RemoveAll(s.state))
}
