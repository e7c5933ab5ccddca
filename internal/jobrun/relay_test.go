package jobrun

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/internal/nixstore"
)

// tempRootsOf is a daemon with temporary roots like Nix's: for each connection, it reads a store path, keeps
// it in a file until the connection ends, and answers with the path.
func tempRootsOf(t *testing.T, listener *net.UnixListener, folder string) {
	for n := 0; ; n++ {
		conn, err := listener.AcceptUnix()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if who, err := peer(conn); err != nil || int(who.Uid) != os.Geteuid() {
				t.Errorf("the client is %+v, %v", who, err)
			}
			path := make([]byte, len(somePath(0)))
			if _, err := io.ReadFull(conn, path); err != nil {
				return
			}
			name := filepath.Join(folder, fmt.Sprint(n))
			if err := os.WriteFile(name, append(bytes.Clone(path), 0), 0o600); err != nil {
				t.Error(err)
			}
			conn.Write(path)
			io.Copy(io.Discard, conn)
			os.Remove(name)
		}()
	}
}

func somePath(n int) string { return fmt.Sprintf("/nix/store/%s-%03d", strings.Repeat("0", 32), n) }

// testRelay returns a relay and the socket at which it listens.
func testRelay(t *testing.T, daemon bool) (*relay, string) {
	t.Helper()
	folder := t.TempDir()
	files := nixstore.Files{Root: folder}
	roots := filepath.Join(folder, "nix/var/nix/temproots")
	if err := os.MkdirAll(roots, 0o755); err != nil {
		t.Fatal(err)
	}
	if daemon {
		listener, err := listenLocally(folder + "/daemon")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		go tempRootsOf(t, listener, roots)
	}
	r, err := startRelay(folder+"/socket", folder+"/daemon", files)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r, folder + "/socket"
}

// The paths of a connection are known, however short it is.
func TestRelay(t *testing.T) {
	const clients, times = 8, 50
	r, socket := testRelay(t, true)
	var wait sync.WaitGroup
	for client := range clients {
		wait.Go(func() {
			for n := range times {
				path := somePath(client*times + n)
				conn, err := net.Dial("unix", socket)
				if err != nil {
					t.Error(err)
					return
				}
				io.WriteString(conn, path)
				answer := make([]byte, len(path))
				if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != path {
					t.Errorf("got %q, %v", answer, err)
				}
				conn.Close()
			}
		})
	}
	wait.Wait()
	if got := len(r.paths()); got != clients*times {
		t.Errorf("%d of %d paths are known", got, clients*times)
	}
}

// The paths of an open connection are known, too.
func TestRelayOpen(t *testing.T) {
	r, socket := testRelay(t, true)
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, somePath(1))
	if _, err := io.ReadFull(conn, make([]byte, len(somePath(1)))); err != nil {
		t.Fatal(err)
	}
	if got := r.paths(); len(got) != 1 || got[0] != somePath(1) {
		t.Errorf("got %q", got)
	}
}

// Without a daemon the command's connection ends.
func TestRelayWithoutDaemon(t *testing.T) {
	_, socket := testRelay(t, false)
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v", err)
	}
}

// The daemon sees the user of the command. After that, the thread has its own user again.
func TestDialLike(t *testing.T) {
	own := os.Geteuid()
	other, group := own, os.Getegid()
	if own == 0 { // nobody else can be another
		other, group = 12345, 23456
	}
	err := actAs(&unix.Ucred{Uid: uint32(other), Gid: uint32(group)}, func() error {
		if uid, gid := unix.Geteuid(), unix.Getegid(); uid != other || gid != group {
			t.Errorf("acts as %d, %d", uid, gid)
		}
		return nil
	})
	if uid, gid := unix.Geteuid(), unix.Getegid(); err != nil || uid != own || gid != os.Getegid() {
		t.Errorf("acts as %d, %d; %v", uid, gid, err)
	}
}
