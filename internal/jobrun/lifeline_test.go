package jobrun

import (
	"io"
	"testing"
	"testing/synctest"
	"time"
)

func TestLifeline(t *testing.T) {
	const silence = 30 * time.Second
	tests := []struct {
		name        string
		feed        func(*io.PipeWriter)
		least, most time.Duration // until the job is given up
	}{
		{"ends at once", func(w *io.PipeWriter) { w.Close() }, 0, 0},
		{"ends later", func(w *io.PipeWriter) {
			w.Write([]byte{'\n'})
			time.Sleep(10 * time.Second)
			w.Close()
		}, 10 * time.Second, 10 * time.Second},
		{"never beats", func(*io.PipeWriter) {}, silence, silence * 3 / 2},
		{"beats for a while", func(w *io.PipeWriter) {
			for range 1000 {
				w.Write([]byte{'\n'})
				time.Sleep(silence - time.Second)
			}
		}, 1000 * (silence - time.Second), 1000*(silence-time.Second) + silence*3/2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, w := io.Pipe()
				defer w.Close()
				go test.feed(w)
				begun := time.Now()
				watchLifeline(r, silence)
				if took := time.Since(begun); took < test.least || took > test.most {
					t.Errorf("given up after %s, not between %s and %s", took, test.least, test.most)
				}
			})
		})
	}
}
