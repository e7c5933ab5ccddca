package joblog

import (
	"bytes"
	"crypto/rand"
	"io"
	"strings"
	"testing"

	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

// BenchmarkStream measures all work for each byte of a job's output until it is in the file, in chunks of the size that
// the engine sends, with ten secrets.
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
	stream := l.Stream(schemas.Stdout)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := stream.Write(chunk); err != nil {
			b.Fatal(err)
		}
		l.index.size = 0 // the disk is not what is measured
	}
}

// BenchmarkSingleLines measures the work for a line that is written alone, including its record in the journal.
func BenchmarkSingleLines(b *testing.B) {
	store, err := Open(b.TempDir(), Keep{}, 1<<40)
	if err != nil {
		b.Fatal(err)
	}
	l, err := store.Create("job", nil)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	line := []byte(strings.Repeat("0123456789 ", 7) + "\n")
	stream := l.Stream(schemas.Stdout)
	for b.Loop() {
		if _, err := stream.Write(line); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReaders measures the time for each line that a reader of a million lines needs.
func BenchmarkReaders(b *testing.B) {
	store, err := Open(b.TempDir(), Keep{}, 1<<40)
	if err != nil {
		b.Fatal(err)
	}
	l, err := store.Create("job", nil)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	stream := l.Stream(schemas.Stdout)
	chunk := []byte(strings.Repeat(strings.Repeat("0123456789 ", 7)+"\n", 400))
	for range 1_000_000 / 400 {
		if _, err := stream.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	l.Complete()
	b.Run("lines", func(b *testing.B) {
		for b.Loop() {
			if err := reading(l).Follow(b.Context(), 0, io.Discard); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("messages", func(b *testing.B) {
		for b.Loop() {
			if err := reading(l).FollowMessages(b.Context(), 1, func([]schemas.Message) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
}
