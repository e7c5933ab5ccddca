package devcache

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// begin begins an upload and returns the URLs of its calls.
func (w *fixture) begin() (about func(action, more string) string) {
	w.t.Helper()
	_, body, _ := w.do("POST", begin+"?compression=zst", nil)
	var ids struct{ NarID, UploadID string }
	if err := json.Unmarshal(body, &ids); err != nil {
		w.t.Fatal(err)
	}
	return func(action, more string) string {
		return begin + "/" + ids.NarID + action + "?uploadId=" + url.QueryEscape(ids.UploadID) + more
	}
}

func (w *fixture) wantStatus(want int, address string) {
	w.t.Helper()
	if status, text, _ := w.do("POST", address, nil); status != want {
		w.t.Errorf("%s: %d %s, want %d", address, status, text, want)
	}
}

// An abort removes everything of an upload.
func TestAbort(t *testing.T) {
	w := newFixture(t)
	about := w.begin()
	for _, content := range []string{"x", "x", "y"} { // the same part again, and then a replacement
		if _, status, text := w.sendPart(&push{}, about("", "&partNumber=1"), []byte(content)); status != 200 {
			t.Errorf("a part: %d %s", status, text)
		}
	}
	if entries, _ := os.ReadDir(filepath.Join(w.folder, "default/uploads")); len(entries) != 1 {
		t.Errorf("%d files of one part", len(entries))
	}
	w.wantStatus(400, about("/abort", "x"))
	w.wantStatus(200, about("/abort", ""))
	w.wantStatus(404, about("/abort", ""))
	w.checkLeft()
}

// A restart removes everything of an upload.
func TestUploadEndsWithItsProcess(t *testing.T) {
	w := newFixture(t)
	about := w.begin()
	if _, status, text := w.sendPart(&push{}, about("", "&partNumber=1"), []byte("x")); status != 200 {
		t.Errorf("a part: %d %s", status, text)
	}
	w.start()
	w.checkLeft()
	w.wantStatus(404, about("/abort", ""))
}

// A part that is being received when its upload is aborted is refused, and nothing of it is left.
func TestPartOnItsWay(t *testing.T) {
	w := newFixture(t)
	about := w.begin()
	p := &push{put: func(address string, h []string) (string, []string) {
		content, send := io.Pipe()
		sum := md5.Sum([]byte("ab"))
		request, _ := http.NewRequest("PUT", address, content)
		request.ContentLength = 2
		request.Header = http.Header{"Content-Type": {h[1]}, "Content-Md5": {base64.StdEncoding.EncodeToString(sum[:])}}
		answer := make(chan int)
		go func() {
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				answer <- 0
				return
			}
			response.Body.Close()
			answer <- response.StatusCode
		}()
		io.WriteString(send, "a")
		for tries := 0; tries < 1000; tries++ { // polls until the cache reads the part: there is no event for that
			if entries, _ := os.ReadDir(filepath.Join(w.folder, "default/uploads")); len(entries) == 1 {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		w.wantStatus(200, about("/abort", ""))
		w.checkLeft()
		io.WriteString(send, "b")
		send.Close()
		if status := <-answer; status != 404 {
			t.Errorf("the part being received: %d, want 404", status)
		}
		return address, h
	}}
	if _, status, _ := w.sendPart(p, about("", "&partNumber=1"), []byte("ab")); status != 404 {
		t.Errorf("a part after an abort: %d, want 404", status)
	}
}

// If several clients complete or abort an upload at the same time, one succeeds, and the others get 404.
func TestEndsAtOnce(t *testing.T) {
	for _, other := range []string{"complete", "abort"} {
		w := newFixture(t)
		p := w.newPush()
		about := w.begin()
		var parts []map[string]any
		for i, part := range p.parts {
			eTag, _, _ := w.sendPart(p, about("", fmt.Sprintf("&partNumber=%d", i+1)), part)
			parts = append(parts, map[string]any{"partNumber": i + 1, "eTag": eTag})
		}
		p.sign(p.announce)
		text, _ := json.Marshal(map[string]any{"parts": parts, "narInfoCreate": p.announce})
		counts := map[int]int{}
		statuses := make(chan int)
		for i := range 8 {
			action, body := "/complete", text
			if i%2 == 1 && other == "abort" {
				action, body = "/abort", nil
			}
			go func() {
				status, _, _ := w.do("POST", about(action, ""), body)
				statuses <- status
			}()
		}
		for range 8 {
			counts[<-statuses]++
		}
		if counts[200] != 1 || counts[404] != 7 {
			t.Errorf("complete and %s: %v, want one 200 and 404 for the others", other, counts)
		}
		if other == "complete" && !w.announced() {
			t.Error("the path is not announced")
		}
		w.checkLeft()
	}
}

// After a completion is refused, a client can correct the mistake and complete the upload.
func TestCompleteAfterRefusal(t *testing.T) {
	w := newFixture(t)
	p := w.newPush()
	var refused int
	p.request = func(complete map[string]any) {
		size := p.announce["cFileSize"]
		p.announce["cFileSize"] = 5
		text, _ := json.Marshal(complete)
		refused, _, _ = w.do("POST", p.completing, text)
		p.announce["cFileSize"] = size
	}
	if status, text := w.run(p); status != 200 || refused != 400 {
		t.Errorf("%d after %d: %s", status, refused, text)
	}
	if !w.announced() {
		t.Error("the path is not announced")
	}
	w.checkLeft()
}

// If a part's file cannot be read, the answer is 500, for any part.
func TestPartThatIsGone(t *testing.T) {
	for i := range 3 {
		w := newFixture(t)
		p := w.newPush()
		p.request = func(map[string]any) {
			files, _ := filepath.Glob(filepath.Join(w.folder, "default/uploads/*"))
			if len(files) != 3 {
				t.Fatalf("%d files of 3 parts", len(files))
			}
			os.Remove(files[i])
		}
		if status, text := w.run(p); status != 500 || w.announced() {
			t.Errorf("%d %s, want 500; announced: %v", status, text, w.announced())
		}
	}
}
