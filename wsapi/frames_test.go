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
