package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker/cli/cli/config"
)

// TestSilentHelper uses a credential helper that does not answer: a call of Ensure still ends with its context. When the
// helper has had its time, later calls fail at once, and do not start it again.
func TestSilentHelper(t *testing.T) {
	folder := t.TempDir()
	started, pipe, starts := filepath.Join(folder, "started"), filepath.Join(folder, "pipe"), filepath.Join(folder, "starts")
	helper := fmt.Sprintf("#!/bin/sh\necho >> %s\nexec < %s\necho > %s\nexec cat\n", starts, pipe, started) // it has the pipe before it is closed
	if err := errors.Join(syscall.Mkfifo(started, 0o600), syscall.Mkfifo(pipe, 0o600),
		os.WriteFile(filepath.Join(folder, "docker-credential-silent"), []byte(helper), 0o700),
		os.WriteFile(filepath.Join(folder, "config.json"), []byte(`{"credsStore":"silent"}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close() // ends the helper
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
	config.SetDir(folder) // as DOCKER_CONFIG, which is read only once

	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the client is gone")
	go func() {
		os.ReadFile(started) // waits for the helper
		cancel(gone)
	}()
	s := NewSource(&slowEngine{}, "example.com/image:1", PullMissing)
	if _, err := s.Ensure(ctx, func(string) {}); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}

	s.helpers.mu.Lock()
	for _, call := range s.helpers.running {
		call.begun = call.begun.Add(-helperTimeout)
	}
	s.helpers.mu.Unlock()
	if _, err := s.Ensure(t.Context(), func(string) {}); !errors.Is(err, errHelperSilent) {
		t.Errorf("the next time: %v", err)
	}
	if got, err := os.ReadFile(starts); string(got) != "\n" {
		t.Errorf("it was started %d times, %v", len(got), err)
	}
}

// TestHelperShared has several calls need the same credentials while a helper is slow, and while it hangs. It is called once.
func TestHelperShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h helperCalls
		var calls atomic.Int32
		answer := make(chan struct{})
		ask := func(key string) (string, error) {
			return h.ask(t.Context(), key, func() (string, error) {
				calls.Add(1)
				<-answer
				return "auth", nil
			})
		}
		var slow sync.WaitGroup
		for range 3 {
			slow.Go(func() {
				if auth, err := ask("helper"); auth != "auth" || err != nil {
					t.Errorf("a slow helper: %q, %v", auth, err)
				}
			})
		}
		synctest.Wait()
		close(answer)
		slow.Wait()
		if calls.Load() != 1 {
			t.Errorf("a slow helper was called %d times", calls.Load())
		}

		answer = make(chan struct{})
		begun := time.Now()
		for range 3 {
			if _, err := ask("helper"); err != errHelperSilent {
				t.Errorf("a helper that hangs: %v", err)
			}
		}
		if took := time.Since(begun); calls.Load() != 2 || took != helperTimeout {
			t.Errorf("after %s, it was called %d times", took, calls.Load()-1)
		}
		if _, err := ask("another"); err != errHelperSilent || calls.Load() != 3 {
			t.Errorf("another helper: %v, called %d times", err, calls.Load()-2)
		}
		close(answer)
		synctest.Wait()
		if auth, err := ask("helper"); auth != "auth" || err != nil || calls.Load() != 4 {
			t.Errorf("when it has ended: %q, %v", auth, err)
		}
	})
}
