package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/google/go-cmp/cmp"
)

// slowEngine is an engine with one image, which it must pull. A test controls how fast the pull is. A real engine with a
// real registry is tested in cmd/iglu-builder.
type slowEngine struct {
	there bool
	pulls int
	// send writes the messages of a pull.
	send func(ctx context.Context, message func(format string, args ...any)) error
}

func (r *slowEngine) ImageInspect(context.Context, string, ...client.ImageInspectOption) (image.InspectResponse, error) {
	if !r.there {
		return image.InspectResponse{}, fmt.Errorf("no such image: %w", errdefs.ErrNotFound)
	}
	return image.InspectResponse{ID: "sha256:id", Os: "linux", Architecture: "amd64", Size: 7,
		RepoDigests: []string{"example.com/image@sha256:digest"}}, nil
}

func (r *slowEngine) ImagePull(ctx context.Context, _ string, _ image.PullOptions) (io.ReadCloser, error) {
	r.pulls++
	body, w := io.Pipe()
	go func() {
		err := r.send(ctx, func(format string, args ...any) {
			message := fmt.Sprintf(format, args...)
			if !json.Valid([]byte(message)) {
				panic(message)
			}
			io.WriteString(w, message)
		})
		r.there = r.there || err == nil
		w.CloseWithError(err)
	}()
	return body, nil
}

// layers sends the messages of two layers of 1 and 3 MB, at 0.1 MB each 100 ms.
func layers(ctx context.Context, message func(format string, args ...any)) error {
	message(`{"id":"1","status":"Pulling from iglu/image"}`)
	message(`{"id":"0","status":"Pulling fs layer","progressDetail":{}}`)
	message(`{"id":"1","status":"Pulling fs layer","progressDetail":{}}`)
	for i, size := range []int{10, 30} {
		for n := range size {
			time.Sleep(100 * time.Millisecond)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			message(`{"id":"%d","status":"Downloading","progressDetail":{"current":%d,"total":%d},"progress":"[=>  ]"}`,
				i, (n+1)<<20/10, size<<20/10)
		}
		message(`{"id":"%d","status":"Download complete","progressDetail":{}}`, i)
	}
	time.Sleep(1500 * time.Millisecond)
	message(`{"id":"0","status":"Extracting","progressDetail":{"current":1,"total":2}}`)
	message(`{"status":"Digest: sha256:digest"}`)
	message(`{"status":"Status: Downloaded newer image for example.com/image:1"}`)
	return nil
}

// TestProgress checks that a pull writes one line a second, with bytes and percent.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		begun := time.Now()
		got, err := NewSource(&slowEngine{send: layers}, "example.com/image:1", PullMissing).Ensure(t.Context(), func(line string) {
			lines = append(lines, fmt.Sprint(time.Since(begun), " ", line))
		})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			"0s pulling example.com/image:1",
			"1s pulled 1MiB of 1MiB (100 %)", // of which the engine has told the size
			"2s pulled 2MiB of 4MiB (50 %)",
			"3s pulled 3MiB of 4MiB (75 %)",
			"4s pulled 4MiB of 4MiB (100 %)",
			"5.5s unpacking the image",
			"5.5s pulled 4MiB in 5.5s: Status: Downloaded newer image for example.com/image:1",
		}
		if diff := cmp.Diff(want, lines); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if want := (Image{"sha256:id", "sha256:digest", "linux/amd64", 7}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// TestOnePull starts three calls that wait for one pull. One is cancelled, and another starts late.
func TestOnePull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &slowEngine{send: layers}
		source := NewSource(r, "image", PullMissing)
		type end struct {
			who   string
			err   error
			lines int
		}
		ends := make(chan end, 3)
		ensure := func(ctx context.Context, who string) {
			var lines int
			_, err := source.Ensure(ctx, func(string) { lines++ })
			ends <- end{who, err, lines}
		}
		impatient, leave := context.WithCancel(t.Context())
		go ensure(t.Context(), "first")
		go ensure(impatient, "impatient")
		time.Sleep(2500 * time.Millisecond)
		leave()
		if got := <-ends; got.who != "impatient" || !errors.Is(got.err, context.Canceled) {
			t.Errorf("got %v", got)
		}
		go ensure(t.Context(), "late")
		for range 2 {
			if got := <-ends; got.err != nil || got.lines < 3 {
				t.Errorf("got %v", got)
			}
		}
		if r.pulls != 1 {
			t.Errorf("%d pulls", r.pulls)
		}
	})
}

// TestPullGivenUp cancels all calls that wait: the pull is cancelled, and the next call starts a new one.
func TestPullGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var given error
		r := &slowEngine{}
		r.send = func(ctx context.Context, _ func(string, ...any)) error {
			<-ctx.Done()
			given = ctx.Err()
			return given
		}
		source := NewSource(r, "image", PullMissing)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := source.Ensure(ctx, func(string) {}); err == nil || given == nil {
			t.Errorf("got %v, and the pull %v", err, given)
		}
		r.send = layers
		if _, err := source.Ensure(t.Context(), func(string) {}); err != nil {
			t.Error(err)
		}
	})
}

// TestCheck asks whether an image can be had, which pulls nothing: it can as long as no pull has failed.
func TestCheck(t *testing.T) {
	fails := func(_ context.Context, message func(string, ...any)) error {
		message(`{"error":"the registry is on fire"}`)
		return errors.New("it has failed")
	}
	synctest.Test(t, func(t *testing.T) {
		r := &slowEngine{send: fails}
		source := NewSource(r, "image", PullMissing)
		ensure := func(takes time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), takes)
			defer cancel()
			source.Ensure(ctx, func(string) {})
			synctest.Wait() // for what sends
		}
		want := func(when, reason string) {
			t.Helper()
			pulls := r.pulls
			err := source.Check(t.Context())
			pull, failed := errors.AsType[*PullError](err)
			if failed != (reason != "") || failed && pull.Err.Error() != reason || !failed && err != nil || r.pulls != pulls {
				t.Errorf("%s: %v after %d pulls", when, err, r.pulls-pulls)
			}
		}
		want("before it is pulled", "")
		ensure(time.Minute)
		want("when that has failed", "the registry is on fire")
		r.there = true
		want("while it is there", "")
		r.there = false
		want("when it is gone again", "the registry is on fire")
		r.send = func(ctx context.Context, _ func(string, ...any)) error { <-ctx.Done(); return ctx.Err() }
		ensure(time.Second)
		want("when a pull was given up", "the registry is on fire")
		r.send = layers
		ensure(time.Minute)
		r.there = false
		want("when the last pull has succeeded", "")
	})
	r := &slowEngine{}
	if err := NewSource(r, "image", PullNever).Check(t.Context()); err == nil {
		t.Error("an image that is never pulled can be had")
	}
}

// TestPolicies lets a pull fail with each policy, with and without a copy on the engine.
func TestPolicies(t *testing.T) {
	broken := func(_ context.Context, message func(string, ...any)) error {
		message(`{"status":"Pulling"}`)
		message(`{"error":"the registry is on fire"}`)
		return nil
	}
	tests := []struct {
		policy Policy
		there  bool
		pulls  int
		err    string // "" if the image can be had
	}{
		{PullMissing, true, 0, ""},
		{PullMissing, false, 1, "the registry is on fire"},
		{PullAlways, true, 1, ""},
		{PullAlways, false, 1, "the registry is on fire"},
		{PullNever, true, 0, ""},
		{PullNever, false, 0, "it is never pulled (IGLU_PULL)"},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%s,there=%t", test.policy, test.there), func(t *testing.T) {
			r := &slowEngine{there: test.there, send: broken}
			var lines []string
			_, err := NewSource(r, "image", test.policy).Ensure(t.Context(), func(line string) { lines = append(lines, line) })
			pull, failed := errors.AsType[*PullError](err)
			if failed != (test.err != "") || failed && pull.Err.Error() != test.err || r.pulls != test.pulls {
				t.Errorf("got %v after %d pulls", err, r.pulls)
			}
			goesOn := slices.Contains(lines, "cannot pull image: the registry is on fire; using the copy on the engine")
			if goesOn != (test.policy == PullAlways && test.there) {
				t.Errorf("lines: %q", lines)
			}
		})
	}
}

// TestBrokenProgress reads invalid progress messages.
func TestBrokenProgress(t *testing.T) {
	for _, text := range []string{"{", "not JSON", `{"status":1}`, strings.Repeat("[", 100_000)} {
		if err := readPull(bytes.NewReader([]byte(text)), func(string) {}); err == nil {
			t.Errorf("%.20q is read", text)
		}
	}
}

// TestLongProgress reads messages without an end, and messages of more layers than an image has.
func TestLongProgress(t *testing.T) {
	for _, text := range []string{strings.Repeat("x", 2*maxStep), strings.Repeat(" ", 2*maxStep)} {
		body := strings.NewReader(`{"status":"` + text + `"}`)
		if text[0] == ' ' {
			body.Reset(`{"status":"Downloading"}` + text)
		}
		err := readPull(body, func(string) {})
		if err == nil || err.Error() != "read the pull's progress: a message has more than 256KiB" || body.Len() < maxStep/2 {
			t.Errorf("%d bytes are not read, error %v", body.Len(), err)
		}
	}
	p := newProgress(func(string) {})
	for i := range 2 * maxLayers {
		s := step{ID: fmt.Sprint(i), Status: "Downloading"}
		s.Progress.Total = 1
		p.add(s)
		p.add(step{ID: "0", Status: "Download complete"})
	}
	if sum := p.sum(); sum.total != maxLayers {
		t.Errorf("%d layers are kept", sum.total)
	}
}

// stalledEngine never answers.
type stalledEngine struct{ Engine }

func (stalledEngine) ImageInspect(ctx context.Context, _ string, _ ...client.ImageInspectOption) (image.InspectResponse, error) {
	<-ctx.Done()
	return image.InspectResponse{}, ctx.Err()
}

// TestStalledEngine uses an engine that does not answer whether it has the image.
func TestStalledEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		_, err := NewSource(stalledEngine{}, "image", PullAlways).Ensure(t.Context(), func(string) {})
		if took := time.Since(begun); !errors.Is(err, context.DeadlineExceeded) || took != inspectTimeout {
			t.Errorf("got %v after %s", err, took)
		}
	})
}

// digestsEngine has an image with several digests.
type digestsEngine struct {
	Engine
	digests []string
}

func (e digestsEngine) ImageInspect(context.Context, string, ...client.ImageInspectOption) (image.InspectResponse, error) {
	return image.InspectResponse{ID: "id", RepoDigests: e.digests}, nil
}

// TestDigest finds the digest of an image that was pulled from several registries, or more than once.
func TestDigest(t *testing.T) {
	digest := func(letter string) string { return "sha256:" + strings.Repeat(letter, 64) }
	for _, test := range []struct {
		ref     string
		digests []string
		want    string
	}{
		{"nixos/nix:1", nil, "id"},
		{"nixos/nix:1", []string{"mirror.example.com/nix@" + digest("a"), "nixos/nix@" + digest("b")}, digest("b")},
		{"docker.io/nixos/nix", []string{"mirror.example.com/nix@" + digest("a"), "nixos/nix@" + digest("b")}, digest("b")},
		{"nixos/nix@" + digest("c"), []string{"nixos/nix@" + digest("b"), "nixos/nix@" + digest("c")}, digest("c")},
		{"renamed:1", []string{"nixos/nix@" + digest("b")}, digest("b")},
	} {
		got, err := NewSource(digestsEngine{digests: test.digests}, test.ref, PullNever).Ensure(t.Context(), func(string) {})
		if err != nil || got.Digest != test.want {
			t.Errorf("%s has the digest %s, want %s; %v", test.ref, got.Digest, test.want, err)
		}
	}
}
