package wsapi

import (
	"bytes"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
)

// TestFrames makes frames of every length of header, one after another of every other.
func TestFrames(t *testing.T) {
	sizes := []int{0, 1, 125, 126, 127, 70_000, 65_535, 65_536, 5, 200, 70_000, 3}
	var f framer
	var frames []byte
	for _, size := range sizes {
		frames = f.append(frames, websocket.TextMessage, func(dst []byte) []byte {
			return append(dst, strings.Repeat("x", size)...)
		})
	}
	for i, size := range sizes {
		header := appendHeader(nil, websocket.TextMessage, size)
		payload := bytes.Repeat([]byte("x"), size)
		if !bytes.HasPrefix(frames, append(header, payload...)) {
			t.Fatalf("frame %d is not one of %d bytes: %.20q", i, size, frames)
		}
		frames = frames[len(header)+size:]
	}
	if len(frames) != 0 {
		t.Errorf("%d bytes are left", len(frames))
	}
}

// TestHeaders has the headers of RFC 6455, section 5.2, at the sizes where they change.
func TestHeaders(t *testing.T) {
	for size, want := range map[int]string{
		0:       "\x81\x00",
		125:     "\x81\x7d",
		126:     "\x81\x7e\x00\x7e",
		65_535:  "\x81\x7e\xff\xff",
		65_536:  "\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00",
		1 << 40: "\x81\x7f\x00\x00\x01\x00\x00\x00\x00\x00",
	} {
		if got := string(appendHeader(nil, websocket.TextMessage, size)); got != want {
			t.Errorf("%d bytes: %q, want %q", size, got, want)
		}
	}
}
