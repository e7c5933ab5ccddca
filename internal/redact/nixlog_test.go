package redact

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// seeded returns a source of randomness that is the same in each run.
func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

const (
	tokenChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	nixBase32  = "0123456789abcdfghijklmnpqrsvwxyz" // of store paths
)

// randomText returns length characters of chars.
func randomText(rng *rand.Rand, chars string, length int) string {
	text := make([]byte, length)
	for i := range text {
		text[i] = chars[rng.IntN(len(chars))]
	}
	return string(text)
}

// randomBytes returns length bytes of any value.
func randomBytes(rng *rand.Rand, length int) []byte {
	data := make([]byte, length)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	return data
}

// tokens returns secrets as services issue them: four of five are 20 to 60 characters
// long, the others 100.
func tokens(rng *rand.Rand, count int) []string {
	secrets := make([]string, count)
	for i := range secrets {
		length := 20 + rng.IntN(41)
		if i%5 == 4 {
			length = 100
		}
		secrets[i] = randomText(rng, tokenChars, length)
	}
	return secrets
}

// privateKey returns text of the shape of a private key in PEM, of so many lines.
func privateKey(rng *rand.Rand, lines int) string {
	var key strings.Builder
	key.WriteString("-----BEGIN RSA PRIVATE KEY-----\n")
	for range lines {
		key.WriteString(base64.StdEncoding.EncodeToString(randomBytes(rng, 48)) + "\n")
	}
	key.WriteString("-----END RSA PRIVATE KEY-----\n")
	return key.String()
}

// nixLog returns lines as Nix and what it runs print them, size bytes at least.
func nixLog(rng *rand.Rand, size int) (lines []string) {
	words := strings.Fields("configure make install openssl glibc stdenv python3 cmake perl " +
		"linux-headers checking building unpacking patching src include lib target version systemd")
	word := func() string { return words[rng.IntN(len(words))] }
	path := func() string {
		return fmt.Sprintf("/nix/store/%s-%s-%d.%d", randomText(rng, nixBase32, 32), word(), rng.IntN(10), rng.IntN(99))
	}
	kinds := []func() string{
		func() string { return fmt.Sprintf("building '%s.drv'...", path()) },
		func() string { return fmt.Sprintf("copying path '%s' from 'https://cache.nixos.org'...", path()) },
		func() string {
			return fmt.Sprintf("%s> gcc -DHAVE_CONFIG_H -I. -I./%s -g -O2 -MT %s.o -MD -c -o %s/%s.o %s/%s.c", word(), word(), word(), word(), word(), word(), word())
		},
		func() string { return fmt.Sprintf("%s> checking for sys/%s.h... yes", word(), word()) },
		func() string {
			return fmt.Sprintf("%s> [%3d%%] Building CXX object %s/CMakeFiles/%s.dir/%s.cc.o", word(), rng.IntN(100), word(), word(), word())
		},
		func() string {
			return fmt.Sprintf("%s> install -m 644 %s.py %s/lib/%s", word(), word(), path(), word())
		},
		func() string {
			return fmt.Sprintf("  specified: sha256-%s", base64.StdEncoding.EncodeToString(randomBytes(rng, 32)))
		},
		func() string {
			return fmt.Sprintf("%s> %s  %s.tar.gz", word(), hex.EncodeToString(randomBytes(rng, 32)), word())
		},
		func() string {
			return fmt.Sprintf("warning: Git tree '/src/%s' is dirty {%d}: see https://example.org:443/%s?q=a@b", word(), rng.IntN(99), word())
		},
		func() string { return "" },
	}
	for size > 0 {
		line := kinds[rng.IntN(len(kinds))]()
		lines = append(lines, line)
		size -= len(line) + 1
	}
	return lines
}

// coloured returns lines with three colour sequences in each, none of them in another one.
func coloured(rng *rand.Rand, lines []string) []string {
	out := make([]string, len(lines))
	for i, line := range lines {
		places := []int{rng.IntN(len(line) + 1), rng.IntN(len(line) + 1), rng.IntN(len(line) + 1)}
		slices.Sort(places)
		for _, at := range slices.Backward(places) {
			line = line[:at] + fmt.Sprintf("\x1b[%d;%dm", rng.IntN(2), 30+rng.IntN(8)) + line[at:]
		}
		out[i] = line
	}
	return out
}
