package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/docker/cli/cli/config"
)

// TestSilentHelper uses a credential helper that does not answer: a call of Ensure still ends with its context.
func TestSilentHelper(t *testing.T) {
	folder := t.TempDir()
	started, pipe := filepath.Join(folder, "started"), filepath.Join(folder, "pipe")
	helper := fmt.Sprintf("#!/bin/sh\nexec < %s\necho > %s\nexec cat\n", pipe, started) // it has the pipe before it is closed
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
	if _, err := NewSource(&slowEngine{}, "example.com/image:1", PullMissing).Ensure(ctx, func(string) {}); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}
