package joblog

import (
	"bytes"
	"crypto/rand"
	"strings"
	"testing"

	"iglu.sh/builder/internal/redact"
)

// BenchmarkStream is what the server does with each byte of a job's output up to the
// file, in chunks as they come from the engine, with ten secrets.
func BenchmarkStream(b *testing.B) {
	store, err := Open(b.TempDir(), Keep{}, 1<<40)
	if err != nil {
		b.Fatal(err)
	}
	var secrets []string
	for range 10 {
		secrets = append(secrets, rand.Text())
	}
	l, err := store.Create("job", redact.New(secrets...))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	text := strings.Repeat(strings.Repeat("0123456789 ", 7)+"\n", 1000)
	chunk := bytes.Repeat([]byte(text), 1)[:32<<10]
	stream := l.Stream()
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := stream.Write(chunk); err != nil {
			b.Fatal(err)
		}
		l.size = 0 // the disk is not what is measured
	}
}
