// Package malformed makes messages that are no JSON, for tests of how a server refuses them.
package malformed

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Messages returns a function that returns another message with each call, the same ones in each test: a job, and the
// stored inputs of the fuzz test of requests, with some of their bytes changed. repository is the repository's folder.
func Messages(t testing.TB, repository, job string) (next func() []byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(repository, "schemas/testdata/fuzz/FuzzParseRequest/*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	var corpus [][]byte
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, value, _ := strings.Cut(string(text), "[]byte(")
		input, err := strconv.Unquote(strings.TrimSuffix(strings.TrimSpace(value), ")"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		corpus = append(corpus, []byte(input))
	}
	corpus = append(corpus, []byte(job))
	random, n := rand.New(rand.NewPCG(5, 10_000)), -1
	return func() []byte {
		n++
		return changed(random, corpus[n%len(corpus)])
	}
}

// changed returns an input with some of its bytes changed, so that it is no JSON.
func changed(random *rand.Rand, input []byte) []byte {
	for {
		changed := append([]byte(nil), input...)
		for range 1 + random.IntN(4) {
			if n := len(changed); n > 0 {
				changed[random.IntN(n)] = byte(random.IntN(256))
			} else {
				changed = append(changed, byte(random.IntN(256)))
			}
		}
		if !json.Valid(changed) {
			return changed
		}
	}
}
