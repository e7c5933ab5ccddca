package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/test/kit/fakeengine"
)

const (
	programLock = "iglu-program-test"
	callProgram = "take the builder's program"
)

// programVolume is the name of the volume with the program of the fixture.
var programVolume = volumeOf(programText)

// volumeOf returns the name of the volume with a program.
func volumeOf(program string) string {
	return fmt.Sprintf("iglu-builder-test-program-%x", sha256.Sum256([]byte(program)))[:len("iglu-builder-test-program-")+12]
}

// mountProgram makes a container with the program's volume, for the test.
func (f *fixture) mountProgram(t *testing.T) (id string) {
	t.Helper()
	made, err := f.client.ContainerCreate(t.Context(), &containertypes.Config{Image: fakeengine.ImageRef}, &containertypes.HostConfig{
		Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: programVolume, Target: jobenv.Mount}},
	}, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Remove(t.Context(), made.ID) })
	return made.ID
}

// programThere returns what the volume holds in the place of the program.
func (f *fixture) programThere(t *testing.T) string {
	t.Helper()
	archive, _, err := f.client.CopyFromContainer(t.Context(), f.mountProgram(t), "/iglu/iglu-builder")
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	r := tar.NewReader(archive)
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// putProgram fills the volume as an earlier builder did.
func (f *fixture) putProgram(t *testing.T, text string) {
	t.Helper()
	archive, err := programArchive(strings.NewReader(text), int64(len(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.client.CopyToContainer(t.Context(), f.mountProgram(t), jobenv.Mount, archive, containertypes.CopyToContainerOptions{}); err != nil {
		t.Fatal(err)
	}
}

// copies are the requests that fill a volume.
const copies = `PUT /containers/.*/archive\?.*`

// TestProgramFilledOnce makes containers of two builders, which share a volume.
func TestProgramFilledOnce(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		f.create(t, "one")
		f.create(t, "two")
		options := f.options
		options.Program = programFile(t, programText)
		if _, err := f.builder(t, options).Create(t.Context(), spec("three")); err != nil {
			t.Fatal(err)
		}
		wantAll(t, "requests that fill it", f.requests(copies), "PUT /containers/ID/archive?noOverwriteDirNonDir=true&path=%2Figlu")
		wantAll(t, "questions for it", f.requests("GET /volumes/.*"), "GET /volumes/PROGRAM")
		wantEqual(t, "locks", len(f.requests(`POST /containers/create\?name=`+programLock)), 2) // one of each builder
		wantEqual(t, "left", strings.Join(f.fake.Left(), ", "),
			"container one created, container three created, container two created, network iglu-builder-test-jobs, volume "+programVolume)
		wantEqual(t, "program", f.programThere(t), programText)
		wantEqual(t, "request for the volume", f.body("POST /volumes/create"), `{"Labels":{"sh.iglu.builder.instance":"test"},"Name":"`+programVolume+`"}`)
		link, err := f.client.ContainerStatPath(t.Context(), f.mountProgram(t), "/iglu/iglu-askpass")
		if err != nil || link.Size != 0 {
			t.Errorf("the link is %+v, %v", link, err)
		}
	})
}

// TestProgramFiller looks at the container that the volume is filled through.
func TestProgramFiller(t *testing.T) {
	t.Parallel()
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		filled := f.fake.At(callAt("PUT /containers/.*/archive", 1), func() {
			filler := f.fake.Containers()[1] // the first is the lock
			wantEqual(t, "network", string(filler.HostConfig.NetworkMode), "none")
			wantEqual(t, "labels", fmt.Sprint(filler.Labels), fmt.Sprint(instanceLabel))
			wantEqual(t, "image", filler.Image, fakeengine.ImageRef)
			wantEqual(t, "entrypoint", fmt.Sprint(filler.Entrypoint), "[iglu-builder]")
			wantEqual(t, "mounts", fmt.Sprint(filler.HostConfig.Mounts), fmt.Sprint([]mount.Mount{{Type: "volume", Source: programVolume, Target: "/iglu"}}))
			wantEqual(t, "left", f.left(), "container  created, container "+programLock+" created, network iglu-builder-test-jobs, volume PROGRAM")
		})
		f.create(t, "one")
		wantEqual(t, "filled", filled(), true)
	})
}

// TestProgramLock lets two builders of an instance fill the volume at once. The program is not written any more after a
// container exists that mounts it and may run.
func TestProgramLock(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		f.fake.MakeNetwork(jobsNetwork, instanceLabel)
		filled := f.fake.At(callAt("PUT /containers/.*/archive", 1), func() {
			lock := f.fake.Containers()[0]
			wantEqual(t, "network of the lock", string(lock.HostConfig.NetworkMode), "none")
			wantEqual(t, "mounts of the lock", len(lock.HostConfig.Mounts), 0)
			wantEqual(t, "labels of the lock", fmt.Sprint(lock.Labels), fmt.Sprint(instanceLabel))
			wantEqual(t, "image of the lock", lock.Image, fakeengine.ImageRef)
			wantEqual(t, "entrypoint of the lock", fmt.Sprint(lock.Entrypoint), "[iglu-builder]")
			time.Sleep(1200 * time.Millisecond)
			wantEqual(t, "left", f.left(), "container  created, container "+programLock+" created, network iglu-builder-test-jobs, volume PROGRAM")
		})
		second := f.builder(t, f.options)
		begun := time.Now()
		done := make(chan error, 1)
		go func() {
			_, err := second.Create(t.Context(), spec("two"))
			done <- err
		}()
		synctest.Wait() // until it writes
		wantEqual(t, "filled", filled(), true)
		f.create(t, "one")
		wantTook(t, begun, 1500*time.Millisecond)
		wantTold(t, <-done, "")
		wantEqual(t, "requests that fill it", len(f.requests(copies)), 1)
		wantEqual(t, "left", f.left(), "container one created, container two created, network iglu-builder-test-jobs, volume PROGRAM")
		wantEqual(t, "program", f.programThere(t), programText)
	})
}

// TestStaleProgramLock creates the lock of a builder that was killed while it filled the volume. It is broken after 20 s,
// unless the context ends earlier.
func TestStaleProgramLock(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		f.putProgram(t, programText[:5])
		stale := f.fake.MakeContainer(programLock, instanceLabel)
		begun := time.Now()
		f.create(t, "one")
		wantTook(t, begun, 21*time.Second)
		wantAll(t, "removals", f.requests("DELETE /containers/"+stale+".*"), "DELETE /containers/ID?force=1&v=1")
		if left := f.left(); strings.Contains(left, programLock) {
			t.Errorf("left: %s", left)
		}
		wantEqual(t, "program", f.programThere(t), programText)
	})
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		f.fake.MakeContainer(programLock, instanceLabel)
		ctx, cancel := context.WithTimeout(t.Context(), 1200*time.Millisecond)
		defer cancel()
		begun := time.Now()
		volume, err := f.program.ensure(ctx, nameLock{f.Engine, programLock, fakeengine.ImageRef}, f.Remove)
		wantTook(t, begun, 1200*time.Millisecond)
		if volume != "" || err != context.DeadlineExceeded {
			t.Errorf("got %q, %v", volume, err)
		}
		wantEqual(t, "left", f.left(), "container "+programLock+" created")
	})
}

// TestProgramFound has the volume of an earlier builder: filled, filled in part, or pruned since.
func TestProgramFound(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		before func(t *testing.T, f *fixture)
		copies int // that of before included
	}{
		{"filled", func(t *testing.T, f *fixture) { f.putProgram(t, programText) }, 1},
		{"damaged", func(t *testing.T, f *fixture) { f.putProgram(t, strings.Repeat("\x00", len(programText))) }, 2},
		{"filled half", func(t *testing.T, f *fixture) { f.putProgram(t, programText[:5]) }, 2},
		{"empty", func(t *testing.T, f *fixture) { f.fake.MakeVolume(programVolume, instanceLabel) }, 1},
		{"filled and pruned", func(t *testing.T, f *fixture) {
			wantTold(t, f.Remove(t.Context(), f.create(t, "one").ID()), "")
			wantTold(t, f.client.VolumeRemove(t.Context(), programVolume, false), "")
		}, 2},
		{"unknown", func(t *testing.T, f *fixture) {
			f.putProgram(t, programText)
			f.fake.Break(callAt("HEAD /containers/.*/archive", 1), "500")
		}, 2},
		{"unreadable", func(t *testing.T, f *fixture) {
			f.putProgram(t, programText)
			f.fake.Break(callAt("GET /containers/.*/archive", 1), "500")
		}, 2},
		{"no archive", func(t *testing.T, f *fixture) {
			f.putProgram(t, programText)
			f.fake.Break(callAt("GET /containers/.*/archive", 1), fakeengine.Garbage)
		}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			both(t, nil, func(t *testing.T, f *fixture) {
				test.before(t, f)
				f.create(t, "two")
				wantEqual(t, "requests that fill it", len(f.requests(copies)), test.copies)
				wantEqual(t, "program", f.programThere(t), programText)
			})
		})
	}
}

// TestProgramFails lets the calls fail that provide the program. No container is left, and the next Create fills the
// volume.
func TestProgramFails(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		call  fakeengine.Call
		fault fakeengine.Fault
		want  string
	}{
		{"create volume", callAt("POST /volumes/create", 1), "500", failedTo(callProgram, "create volume: "+says)},
		{"lock", callAt("POST /containers/create", 2), "500", failedTo(callProgram, says)},
		{"lock", callAt("POST /containers/create", 2), fakeengine.Reset, stoppedAnswering(callProgram)},
		{"create container", callAt("POST /containers/create", 3), "500", failedTo(callProgram, "create the container that fills the volume: "+says)},
		{"create container", callAt("POST /containers/create", 3), fakeengine.Reset, stoppedAnswering(callProgram)},
		{"copy", callAt("PUT /containers/.*/archive", 1), "500", failedTo(callProgram, "copy the program into the volume: "+says)},
		{"copy", callAt("PUT /containers/.*/archive", 1), fakeengine.Reset, stoppedAnswering(callProgram)},
		{"copy", callAt("PUT /containers/.*/archive", 1), "404", failedTo(callProgram, "copy the program into the volume: "+says)},
	} {
		t.Run(test.name+"/"+string(test.fault), func(t *testing.T) {
			both(t, nil, func(t *testing.T, f *fixture) {
				f.fake.Break(test.call, test.fault)
				_, err := f.Create(t.Context(), spec("one"))
				wantTold(t, err, test.want)
				if left := f.left(); strings.Contains(left, "container") {
					t.Errorf("left: %s", left)
				}
				f.create(t, "two")
				wantEqual(t, "program", f.programThere(t), programText)
			})
		})
	}
}

// TestProgramUnsure lets the engine fail to inspect the volume that was filled. The next Create inspects it again.
func TestProgramUnsure(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		f.create(t, "one")
		f.fake.Break(callAt("GET /volumes/.*", 1), "500")
		_, err := f.Create(t.Context(), spec("two"))
		wantTold(t, err, failedTo(callProgram, says))
		f.putProgram(t, "half")
		f.create(t, "two")
		wantEqual(t, "program", f.programThere(t), programText)
	})
}

// TestProgramStalls has a job wait for an engine that does not say whether it has the volume. Other jobs wait for that job
// only as long as their contexts last, and the program can be replaced meanwhile.
func TestProgramStalls(t *testing.T) {
	t.Parallel()
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		f.create(t, "one")
		f.fake.Break(callAt("GET /volumes/.*", 1), fakeengine.Stall)
		begun := time.Now()
		failed := make(chan error)
		go func() {
			_, err := f.Create(t.Context(), spec("two"))
			failed <- err
		}()
		synctest.Wait()
		newer := programFile(t, "a newer one")
		f.UseProgram(newer, f.program.madeFor())
		f.forget()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := f.Create(ctx, spec("three")); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		wantTook(t, begun, time.Second)
		if err := <-failed; err == nil {
			t.Error("there is a container without an answer")
		}
		wantTook(t, begun, callTimeout)
		f.create(t, "four")
		used := f.fake.Containers()
		wantEqual(t, "volume", used[len(used)-1].HostConfig.Mounts[0].Source, volumeOf("a newer one"))
	})
}

// TestProgramReplaced replaces the program while the volume with the old one is filled. Later jobs get the new one.
func TestProgramReplaced(t *testing.T) {
	t.Parallel()
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		newer := programFile(t, "a newer one")
		f.fake.At(callAt("PUT /containers/.*/archive", 1), func() { f.UseProgram(newer, f.program.madeFor()) })
		f.create(t, "one")
		f.create(t, "two")
		var used []string
		for _, c := range f.fake.Containers() {
			used = append(used, c.HostConfig.Mounts[0].Source)
		}
		wantAll(t, "volumes", used, programVolume, volumeOf("a newer one"))
	})
}

// TestProgramFile uses a program file that is missing, unreadable, and replaced by a newer one.
func TestProgramFile(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for name, why := range map[string]string{
		filepath.Join(folder, "missing"): "open " + folder + "/missing: no such file or directory",
		folder:                           "read " + folder + ": is a directory",
	} {
		bubble(t, fakeengine.Docker, func(o *Options) { o.Program = name }, func(t *testing.T, f *fixture) {
			_, err := f.Create(t.Context(), spec("one"))
			wantTold(t, err, failedTo(callProgram, "read the builder's own program: "+why))
			wantEqual(t, "left", f.left(), "network iglu-builder-test-jobs")
		})
	}
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		f.create(t, "one")
		if err := os.WriteFile(f.options.Program, []byte("a newer one"), 0o755); err != nil {
			t.Fatal(err)
		}
		f.create(t, "two") // of a builder that has not been started anew
		if _, err := f.builder(t, f.options).Create(t.Context(), spec("three")); err != nil {
			t.Fatal(err)
		}
		var used []string
		for _, c := range f.fake.Containers() {
			used = append(used, c.HostConfig.Mounts[0].Source)
		}
		wantAll(t, "volumes", used, programVolume, programVolume, volumeOf("a newer one"))
	})
}

// TestProgramArchive compares archives with those of the standard library's writer.
func TestProgramArchive(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 511, 512, 513, 1024, 5000} {
		content := bytes.Repeat([]byte("p"), size)
		archive, err := programArchive(bytes.NewReader(content), int64(size))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		w := tar.NewWriter(&want)
		for _, err := range []error{
			w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "iglu-askpass", Linkname: "iglu-builder", Mode: 0o777}),
			w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "iglu-builder", Size: int64(size), Mode: 0o755}),
			func() error { _, err := w.Write(content); return err }(),
			w.Close(),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Errorf("of %d bytes: %d bytes, want %d, or other ones", size, len(got), want.Len())
		}
	}
	if _, err := programArchive(nil, -1); err == nil {
		t.Error("there is an archive of less than nothing")
	}
}
