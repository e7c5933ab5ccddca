package wsapi

import (
	"encoding/binary"
	"slices"
)

const (
	// finalFrame marks a frame that is a whole message: RFC 6455, section 5.2.
	finalFrame = 0x80
	// longestHeader is the largest header of an unmasked frame, in bytes. A server's frames are unmasked.
	longestHeader = 10
)

// A framer makes frames. It reserves room for a header as long as the previous one. If the next header has the
// same length, as most have, the payload need not be moved. The zero framer is ready for use.
type framer struct{ header int }

// append appends a frame whose payload add appends.
func (f *framer) append(dst []byte, opcode byte, add func(dst []byte) []byte) []byte {
	begin := len(dst)
	var room [longestHeader]byte
	dst = add(append(dst, room[:f.header]...))
	size := len(dst) - begin - f.header
	header := appendHeader(room[:0], opcode, size)
	if len(header) != f.header {
		dst = slices.Replace(dst, begin, begin+f.header, header...)
		f.header = len(header)
	}
	copy(dst[begin:], header)
	return dst
}

// appendFrame appends a frame whose payload add appends.
func appendFrame(dst []byte, opcode byte, add func(dst []byte) []byte) []byte {
	return new(framer).append(dst, opcode, add)
}

// appendHeader appends the header of a frame. size is the length of its payload in bytes.
func appendHeader(dst []byte, opcode byte, size int) []byte {
	dst = append(dst, finalFrame|opcode)
	switch {
	case size < 126:
		return append(dst, byte(size))
	case size < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(size))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 127), uint64(size))
	}
}

func controlFrame(opcode byte, payload []byte) []byte {
	return appendFrame(nil, opcode, func(dst []byte) []byte { return append(dst, payload...) })
}
