package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"iglu.sh/builder/test/kit/gitserver"
)

// gitWorld is the git servers of the tests: git's own HTTP server, with a password
// and without, and OpenSSH.
type gitWorld struct {
	root     string
	private  string // URL of the HTTP server that asks for gitUser and gitPassword
	public   string // URL of the one that asks for nothing
	ssh      string // ssh://host:port + root
	key      string // the private key that the SSH server accepts
	keyLines []string

	closers []func() error
}

const gitUser = "git"

func (g *gitWorld) start(root string) error {
	g.root = root
	if err := g.publish(); err != nil {
		return err
	}
	var err error
	if g.private, err = g.serve(&gitserver.Server{Root: root, User: gitUser, Password: gitPassword}); err != nil {
		return err
	}
	if g.public, err = g.serve(&gitserver.Server{Root: root}); err != nil {
		return err
	}
	return g.startSSH()
}

func (g *gitWorld) serve(handler http.Handler) (string, error) {
	url, stop, err := gitserver.Serve(handler)
	if err == nil {
		g.closers = append(g.closers, stop)
	}
	return url, err
}

func (g *gitWorld) stop() {
	for _, closer := range g.closers {
		closer()
	}
	g.closers = nil
}

// startSSH starts an OpenSSH server on a free port that lets one new key in.
func (g *gitWorld) startSSH() error {
	folder := g.root + "-ssh"
	if err := errors.Join(os.MkdirAll(folder, 0o700), os.MkdirAll("/run/sshd", 0o755)); err != nil {
		return err
	}
	for _, name := range []string{"host", "client"} {
		keygen := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(folder, name))
		if output, err := keygen.CombinedOutput(); err != nil {
			return fmt.Errorf("ssh-keygen: %w: %s", err, output)
		}
	}
	key, err := os.ReadFile(filepath.Join(folder, "client"))
	if err != nil {
		return err
	}
	g.key = string(key)
	g.keyLines = strings.Split(strings.TrimSpace(g.key), "\n")
	g.keyLines = g.keyLines[1 : len(g.keyLines)-1] // not the armour

	listener, err := gitserver.Listen() // for a free port, which sshd cannot find by itself
	if err != nil {
		return err
	}
	address := listener.Addr().String()
	listener.Close()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	g.ssh = "ssh://" + address + g.root
	sshd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", port,
		"-o", "ListenAddress="+host, "-o", "HostKey="+filepath.Join(folder, "host"),
		"-o", "AuthorizedKeysFile="+filepath.Join(folder, "client.pub"), "-o", "StrictModes=no",
		"-o", "PasswordAuthentication=no", "-o", "PermitRootLogin=yes", "-o", "PidFile=none")
	if err := sshd.Start(); err != nil {
		return err
	}
	g.closers = append(g.closers, func() error { sshd.Process.Kill(); return sshd.Wait() })
	return poll(10*time.Second, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// publish makes the repositories.
func (g *gitWorld) publish() error {
	if err := os.MkdirAll(g.root, 0o755); err != nil {
		return err
	}
	if err := gitserver.Publish(g.root, "hello", "../../examples/hello"); err != nil {
		return err
	}
	return errors.Join(
		g.commit("hello", "side", map[string]string{"default.nix": derivation("side", "echo built on the side > $out")}),
		g.commit("failing", "main", map[string]string{"default.nix": derivation("failing", "echo about to fail; exit 3")}),
		g.commit("many", "main", manyFiles(1000)),
	)
}

// derivation is a Nix expression of one that a shell script builds. The shell ends it: where
// bash makes way for the last program, and that closes its outputs before it ends, Nix kills it.
func derivation(name, script string) string {
	script += "; exit"
	return fmt.Sprintf(`derivation { name = %q; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" %q ]; }`,
		name, script)
}

func manyFiles(n int) map[string]string {
	files := map[string]string{"default.nix": `let files = builtins.attrNames (builtins.readDir ./files); in ` +
		`derivation { name = "many"; system = builtins.currentSystem; builder = "/bin/sh"; ` +
		`args = [ "-c" "echo counted ${toString (builtins.length files)} files; echo > $out" ]; }`}
	for i := range n {
		files[fmt.Sprintf("files/%04d", i)] = fmt.Sprint("file ", i)
	}
	return files
}

// commit puts files on a branch of a repository, which is made if there is none.
func (g *gitWorld) commit(repository, branch string, files map[string]string) error {
	folder := filepath.Join(g.root, repository)
	for name, content := range files {
		path := filepath.Join(folder, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(folder, ".git")); err != nil {
		if err := gitserver.Git(folder, "init", "--quiet", "--initial-branch="+branch); err != nil {
			return err
		}
	} else if err := gitserver.Git(folder, "checkout", "--quiet", "-b", branch); err != nil {
		return err
	}
	err := errors.Join(gitserver.Git(folder, "add", "."), gitserver.Git(folder, "commit", "--quiet", "--message=files"))
	if branch != "main" {
		err = errors.Join(err, gitserver.Git(folder, "checkout", "--quiet", "main"))
	}
	return err
}
