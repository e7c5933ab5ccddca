// Lines prints about as many bytes of random lines as its argument says, of every
// length up to 2 MiB and with every kind of ending, to standard output and, with \x01
// at their beginning, to standard error. Its last line on standard output is "digests:"
// and the SHA-256 of each output's lines as a log should have them.
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

const maxLine = 1 << 20 // where a log splits a line

// An output is written to in lines, which it counts into a digest.
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
		if random.IntN(50) == 0 { // so that lines come in pieces
			stdout.Flush()
			stderr.Flush()
		}
	}
	stderr.Flush()
	stdout.print([]byte("the end"), random) // an LF after a CR would be lost in it
	fmt.Fprintf(stdout, "digests: %x %x", stdout.digest.Sum(nil), stderr.digest.Sum(nil))
	stdout.Flush()
}

func (o *output) print(line []byte, random *rand.Rand) {
	ending := []string{"\n", "\n", "\n", "\r\n", "\r"}[random.IntN(5)]
	if o.afterCR && len(line) == 0 && ending[0] == '\n' {
		ending = "\r" // an LF here would belong to the CR before
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

// pieces are what lines are made of; none begins with \x01 or holds a line end.
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
