package buildclient

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// TestSilence reads from a builder that sends something in time, and then nothing more. What counts is the time for which
// the client waits for it, not that for which it waits for its own output, such as a pager.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, builder := net.Pipe()
		defer client.Close()
		defer builder.Close()
		conn := flushing{client, func() error { time.Sleep(10 * silenceTimeout); return nil }}
		go func() {
			for range 2 {
				time.Sleep(11*silenceTimeout - time.Second)
				builder.Write([]byte("x"))
			}
		}()
		buf := make([]byte, 1)
		for range 2 {
			if _, err := conn.Read(buf); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := conn.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a silent builder: %v", err)
		}
	})
}
