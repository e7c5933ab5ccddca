package redact

import (
	"strings"
	"testing"
)

const benchSize = 4 << 20 // bytes of text

// benchLines redacts all of lines each time.
func benchLines(b *testing.B, r *Redactor, lines []string) {
	size := 0
	text := make([][]byte, len(lines))
	for i, line := range lines {
		text[i] = []byte(line)
		size += len(line) + 1
	}
	var out []byte
	state := r.Lines()
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		for _, line := range text {
			out = state.Append(out[:0], line, false)
		}
	}
}

func benchSecrets(b *testing.B, count int) {
	benchLines(b, New(tokens(seeded(1), count)...), nixLog(seeded(2), benchSize))
}

func BenchmarkLines0Secrets(b *testing.B)  { benchSecrets(b, 0) }
func BenchmarkLines3Secrets(b *testing.B)  { benchSecrets(b, 3) }
func BenchmarkLines10Secrets(b *testing.B) { benchSecrets(b, 10) }
func BenchmarkLines50Secrets(b *testing.B) { benchSecrets(b, 50) }

func BenchmarkLinesPrivateKey(b *testing.B) {
	benchLines(b, New(privateKey(seeded(1), 52)), nixLog(seeded(2), benchSize))
}

func BenchmarkLines50SecretsColoured(b *testing.B) {
	benchLines(b, New(tokens(seeded(1), 50)...), coloured(seeded(3), nixLog(seeded(2), benchSize)))
}

// Every fifth line holds a secret.
func BenchmarkLines50SecretsFound(b *testing.B) {
	secrets, lines := tokens(seeded(1), 50), nixLog(seeded(2), benchSize)
	for i := 0; i < len(lines); i += 5 {
		lines[i] += secrets[i/5%len(secrets)]
	}
	benchLines(b, New(secrets...), lines)
}

// The text holds the automaton at the deepest nodes and in the longest chains of
// fallbacks. That one line is much longer than the other shows that the time a byte
// takes does not grow with it.
func BenchmarkLinesAdversarial(b *testing.B) {
	var secrets []string
	for i := range 50 {
		secrets = append(secrets, strings.Repeat("a", 10*i+6)+"b", strings.Repeat("a", 5*i+3)+"b"+strings.Repeat("a", 5*i+3)+"c")
	}
	for name, length := range map[string]int{"short": 100, "long": 1 << 20} {
		for kind, text := range map[string]string{
			"aaa":   strings.Repeat("a", length),
			"found": strings.Repeat(strings.Repeat("a", 49)+"b", length/50),
		} {
			lines := make([]string, benchSize/length)
			for i := range lines {
				lines[i] = text
			}
			b.Run(kind+"/"+name, func(b *testing.B) { benchLines(b, New(secrets...), lines) })
		}
	}
}

func BenchmarkNew50Secrets(b *testing.B) {
	secrets := tokens(seeded(1), 50)
	for b.Loop() {
		New(secrets...)
	}
}

func BenchmarkNewPrivateKey(b *testing.B) {
	key := privateKey(seeded(1), 52)
	for b.Loop() {
		New(key)
	}
}
