package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sync"

	"github.com/containerd/errdefs"
	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
)

// A program is the volume that holds the builder's own program for the containers. The program is copied into it once,
// through the engine's API, and the volume is mounted read-only. So no path of the engine's machine is needed, and jobs
// do not wait for a copy.
type program struct {
	client   *client.Client
	instance string
	prefix   string // of the volume's name, which ends with what is in it: another version has another

	helpers *sync.Map     // those of the Engine
	filling chan struct{} // has an item while ensure asks the engine; others wait for that, as long as their contexts last

	mu       sync.Mutex // held only for a moment, never while the engine is asked
	file     string     // the program's path
	platform string     // what it is made for
	volume   string     // that is known to be filled with that file; empty: none is
}

// UseProgram has the engine put another file into containers than the Program of its options, made for a platform
// such as linux/arm64.
func (d *Engine) UseProgram(file, platform string) {
	d.program.mu.Lock()
	defer d.program.mu.Unlock()
	d.program.file, d.program.platform, d.program.volume = file, platform, ""
}

// madeFor returns the platform that the program is made for.
func (p *program) madeFor() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.platform
}

// known returns the program's path, and the volume that is known to be filled with it, or "".
func (p *program) known() (file, volume string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.file, p.volume
}

// note records that a volume is filled with a file, unless UseProgram has replaced the file meanwhile.
func (p *program) note(file, volume string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file == file {
		p.volume = volume
	}
}

// forget makes the next call of ensure check the volume's content again.
func (p *program) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.volume = ""
}

// ensure returns the name of the volume, and creates and fills it if necessary. It asks the engine for each job, because
// a volume that no container uses can be removed at any time.
func (p *program) ensure(ctx context.Context, lock nameLock, remove func(ctx context.Context, id string) error) (string, error) {
	select {
	case p.filling <- struct{}{}:
		defer func() { <-p.filling }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	name, volume := p.known()
	if volume != "" {
		_, err := p.client.VolumeInspect(ctx, volume)
		if err == nil || !errdefs.IsNotFound(err) {
			return volume, err
		}
	}
	file, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("read the builder's own program: %w", err)
	}
	defer file.Close()
	digest := sha256.New()
	size, err := io.Copy(digest, file)
	if err != nil {
		return "", fmt.Errorf("read the builder's own program: %w", err)
	}
	sum := digest.Sum(nil)
	volume = p.prefix + hex.EncodeToString(sum[:6])
	unlock, err := lock.acquire(ctx) // no other builder's job may begin while the program is written
	if err != nil {
		return "", err
	}
	defer unlock()
	ctx, cancel := outliving(ctx) // the lock is held until nothing is written any more
	defer cancel()
	if err := p.fill(ctx, volume, io.NewSectionReader(file, 0, size), size, sum, lock.image, remove); err != nil {
		return "", err
	}
	p.note(name, volume)
	return volume, nil
}

// fill creates the volume and copies the program into it. For the copy, it creates a container that mounts the volume and
// is never started.
func (p *program) fill(ctx context.Context, name string, content io.Reader, size int64, sum []byte, imageID string,
	remove func(ctx context.Context, id string) error) error {
	labels := map[string]string{engine.LabelInstance: p.instance}
	if _, err := p.client.VolumeCreate(ctx, volume.CreateOptions{Name: name, Labels: labels}); err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	created, err := createContainer(ctx, p.client,
		&containertypes.Config{Image: imageID, Entrypoint: []string{jobenv.Program}, Labels: labels},
		&containertypes.HostConfig{
			NetworkMode: noNetwork,
			Mounts:      []mount.Mount{{Type: mount.TypeVolume, Source: name, Target: jobenv.Mount}},
		}, "")
	if err != nil {
		return fmt.Errorf("create the container that fills the volume: %w", err)
	}
	p.helpers.Store(created.ID, nil)
	defer p.helpers.Delete(created.ID)
	defer remove(ctx, created.ID) // if that fails, it is removed later as a leftover

	// An earlier run may have copied the program, completely or in part. A file that was complete can be damaged: after
	// a power failure it may have its size, and zeros as its content.
	if p.holds(ctx, created.ID, size, sum) {
		return nil
	}
	archive, err := programArchive(content, size)
	if err != nil {
		return err
	}
	if err := p.client.CopyToContainer(ctx, created.ID, jobenv.Mount, archive, containertypes.CopyToContainerOptions{}); err != nil {
		return fmt.Errorf("copy the program into the volume: %w", err)
	}
	return nil
}

// holds reports whether a container's volume has the program with a size and a SHA-256 digest. It returns false if the
// volume cannot be read.
func (p *program) holds(ctx context.Context, containerID string, size int64, sum []byte) bool {
	name := path.Join(jobenv.Mount, jobenv.Program)
	found, err := p.client.ContainerStatPath(ctx, containerID, name)
	if err != nil || found.Size != size {
		return false
	}
	archive, _, err := p.client.CopyFromContainer(ctx, containerID, name)
	if err != nil {
		return false
	}
	defer archive.Close()
	file, digest := tar.NewReader(archive), sha256.New()
	if _, err := file.Next(); err != nil {
		return false
	}
	_, err = io.Copy(digest, file)
	return err == nil && bytes.Equal(digest.Sum(nil), sum)
}

// programArchive returns the volume's content as an archive. The program is last: if it is complete, everything is.
func programArchive(content io.Reader, size int64) (io.Reader, error) {
	var begin, end bytes.Buffer
	w := tar.NewWriter(&begin)
	link := &tar.Header{Typeflag: tar.TypeSymlink, Name: jobenv.Askpass, Linkname: jobenv.Program, Mode: 0o777}
	file := &tar.Header{Typeflag: tar.TypeReg, Name: jobenv.Program, Size: size, Mode: 0o755}
	if err := errors.Join(w.WriteHeader(link), w.WriteHeader(file)); err != nil {
		return nil, err
	}
	// The program is not read into memory, which the process would keep for long.
	end.Write(make([]byte, (tarBlock-size%tarBlock)%tarBlock+2*tarBlock))
	return io.MultiReader(&begin, content, &end), nil
}

// tarBlock is the size of the blocks of an archive in bytes. Each file fills whole blocks, and two empty blocks end the
// archive: POSIX, pax, ustar Interchange Format.
const tarBlock = 512
