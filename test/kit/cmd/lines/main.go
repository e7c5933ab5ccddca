// Lines prints random lines to standard output and standard error, in total about as many bytes as its
// argument says. The lines have all lengths up to 2 MiB and all kinds of line ending. Those on standard error
// begin with \x01. The last line on standard output is "digests:" and, for each output, the SHA-256 of its
// lines as a log should contain them.
package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"hash"
	"math/rand/v2"
	"os"
	"strconv"
	"unicode/utf8"
)

const maxLine = 1 << 20 // in bytes: a log splits longer lines

// An output writes lines to a file and computes their digest.
type output struct {
	*bufio.Writer
	digest  hash.Hash
	afterCR bool
}

func newOutput(file *os.File) *output {
	return &output{Writer: bufio.NewWriterSize(file, 1<<16), digest: sha256.New()}
}

func main() {
	size, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	stdout, stderr := newOutput(os.Stdout), newOutput(os.Stderr)
	for printed := 0; printed < size; {
		line := randomLine(random)
		if random.IntN(4) == 0 && len(line) < maxLine-1 {
			stderr.print(append([]byte{1}, line...), random)
		} else {
			stdout.print(line, random)
		}
		printed += len(line) + 1
		if random.IntN(50) == 0 { // so that a reader gets lines in pieces
			stdout.Flush()
			stderr.Flush()
		}
	}
	stderr.Flush()
	stdout.print([]byte("the end"), random) // a text before the digests, because a line ending alone after a CR could be read as its LF
	fmt.Fprintf(stdout, "digests: %x %x", stdout.digest.Sum(nil), stderr.digest.Sum(nil))
	stdout.Flush()
}

func (o *output) print(line []byte, random *rand.Rand) {
	ending := []string{"\n", "\n", "\n", "\r\n", "\r"}[random.IntN(5)]
	if o.afterCR && len(line) == 0 && ending[0] == '\n' {
		ending = "\r" // an LF would be part of the CR before it
	}
	o.afterCR = ending == "\r"
	o.Write(line)
	o.WriteString(ending)
	for len(line) > maxLine {
		cut := maxLine
		for !utf8.RuneStart(line[cut]) {
			cut--
		}
		o.count(line[:cut])
		line = line[cut:]
	}
	o.count(line)
}

func (o *output) count(line []byte) {
	for _, r := range string(line) { // invalid bytes become U+FFFD, one each
		o.digest.Write(utf8.AppendRune(nil, r))
	}
	o.digest.Write([]byte{'\n'})
}

// pieces are the parts of random lines. None begins with \x01 or contains a line ending.
var pieces = []string{"a", "line of a log ", "\x1b[1;32mgreen\x1b[0m", "日本語", "🧊", "é", "\x00", "\"\\/", "<&>", "\u2028", "\xff", "\t"}

func randomLine(random *rand.Rand) []byte {
	var size int
	switch random.IntN(200) {
	case 0:
		size = random.IntN(2 << 20)
	case 1, 2, 3:
		size = random.IntN(64 << 10)
	default:
		size = random.IntN(200)
	}
	var line []byte
	for len(line) < size {
		piece := pieces[random.IntN(len(pieces))]
		for range 1 + random.IntN(20) {
			line = append(line, piece...)
		}
	}
	return line
}
