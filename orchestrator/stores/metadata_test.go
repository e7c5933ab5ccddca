package stores

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The secret of stores is created once, and only its owner can read it.
func TestSecretOfStores(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "stores")
	first, err := metadata{folder}.secret()
	if err != nil {
		t.Fatal(err)
	}
	again, err := metadata{folder}.secret()
	if err != nil || !bytes.Equal(first, again) || len(first) != secretLength {
		t.Errorf("the secret changes from %x to %x: %v", first, again, err)
	}
	file := filepath.Join(folder, secretFile)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 1 {
		t.Errorf("left: %v, error %v", left, err)
	}
	if all, err := (metadata{folder}).all(); err != nil || len(all) != 0 {
		t.Errorf("the secret is taken for a store: %v, error %v", all, err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (metadata{folder}).secret(); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("a secret that is empty: error %v", err)
	}
}

// TestSizesThatCannotBe leaves what is known of a store as it is.
func TestSizesThatCannotBe(t *testing.T) {
	p := New(nil, Options{Folder: t.TempDir()}, slog.New(slog.DiscardHandler))
	m := maintenance{pool: p, name: "store", entry: entry{Bytes: 7}}
	for _, size := range []string{"-9000000000000000", "9000000000000000", "9223372036854775808", "", "12 bytes", "1e9"} {
		if _, err := m.measured(size); err == nil {
			t.Errorf("%q is a size", size)
		}
		if e, ok := p.metadata.read("store"); ok {
			t.Errorf("%q: kept %+v", size, e)
		}
	}
	if size, err := m.measured(fmt.Sprint(300 << 20)); err != nil || size != 300<<20 {
		t.Errorf("%d, %v", size, err)
	}
	for _, size := range []int64{0, maxStoreSize} {
		if got, err := m.measured(fmt.Sprint(size)); got != size || err != nil {
			t.Errorf("%d: %d, %v", size, got, err)
		}
	}
	if _, err := m.measured(fmt.Sprint(maxStoreSize + 1)); err == nil {
		t.Error("more than there can be is a size")
	}
	m.measured(fmt.Sprint(300 << 20))
	if e, _ := p.metadata.read("store"); e.Bytes != 300<<20 || !e.Measured {
		t.Errorf("kept %+v", e)
	}
}
