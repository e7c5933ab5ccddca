package orchestrator

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlowFolder asks how large the stores are, as the page and the metrics do, while the folder with what is known of them
// does not answer: a file in it is a pipe. Jobs and nodes do not wait for that.
func TestSlowFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		time.Sleep(time.Minute)
		folder := l.b.options.Stores.OfNode("ID-n1").Folder
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, ask := range map[string]func(){
			"sizes": func() { l.b.StoresSize() },
			"nodes": func() { l.b.Nodes() },
		} {
			pipe := filepath.Join(folder, "slow.json")
			if err := syscall.Mkfifo(pipe, 0o600); err != nil {
				t.Fatal(err)
			}
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				ask()
			}()
			w, err := os.OpenFile(pipe, os.O_WRONLY, 0) // returns when the pipe is read
			if err != nil {
				t.Fatal(err)
			}
			if l.b.mu.TryLock() {
				l.b.mu.Unlock()
			} else {
				t.Errorf("%s: jobs wait", name)
			}
			if l.b.cluster.mu.TryLock() {
				l.b.cluster.mu.Unlock()
			} else {
				t.Errorf("%s: nodes wait", name)
			}
			w.Close()
			<-answered
			if err := os.Remove(pipe); err != nil {
				t.Fatal(err)
			}
		}
	})
}
