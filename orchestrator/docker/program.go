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

	mu       sync.Mutex
	file     string // the program's path
	platform string // what it is made for
	volume   string // that is known to be filled; empty: none is
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

// ensure returns the name of the volume, and creates and fills it if necessary. It asks the engine for each job, because
// a volume that no container uses can be removed at any time.
func (p *program) ensure(ctx context.Context, lock nameLock, remove func(ctx context.Context, id string) error) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.volume != "" {
		_, err := p.client.VolumeInspect(ctx, p.volume)
		if err == nil || !errdefs.IsNotFound(err) {
			return p.volume, err
		}
	}
	file, err := os.Open(p.file)
	if err != nil {
		return "", fmt.Errorf("read the builder's own program: %w", err)
	}
	defer file.Close()
	digest := sha256.New()
	size, err := io.Copy(digest, file)
	if err != nil {
		return "", fmt.Errorf("read the builder's own program: %w", err)
	}
	volume := p.prefix + hex.EncodeToString(digest.Sum(nil)[:6])
	unlock, err := lock.acquire(ctx) // no other builder's job may begin while the program is written
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := p.fill(ctx, volume, io.NewSectionReader(file, 0, size), size, lock.image, remove); err != nil {
		return "", err
	}
	p.volume = volume
	return volume, nil
}

// forget makes the next call of ensure check the volume's content again.
func (p *program) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.volume = ""
}

// fill creates the volume and copies the program into it. For the copy, it creates a container that mounts the volume and
// is never started.
func (p *program) fill(ctx context.Context, name string, content io.Reader, size int64, imageID string, remove func(ctx context.Context, id string) error) error {
	labels := map[string]string{engine.LabelInstance: p.instance}
	if _, err := p.client.VolumeCreate(ctx, volume.CreateOptions{Name: name, Labels: labels}); err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	created, err := p.client.ContainerCreate(ctx,
		&containertypes.Config{Image: imageID, Entrypoint: []string{jobenv.Program}, Labels: labels},
		&containertypes.HostConfig{
			NetworkMode: noNetwork,
			Mounts:      []mount.Mount{{Type: mount.TypeVolume, Source: name, Target: jobenv.Mount}},
		}, nil, nil, "")
	if err != nil {
		return fmt.Errorf("create the container that fills the volume: %w", err)
	}
	defer remove(ctx, created.ID) // if that fails, it is removed later as a leftover

	// An earlier run may have copied the program, completely or in part.
	found, err := p.client.ContainerStatPath(ctx, created.ID, path.Join(jobenv.Mount, jobenv.Program))
	if err == nil && found.Size == size {
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
