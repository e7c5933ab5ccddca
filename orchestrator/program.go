package orchestrator

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"

	"github.com/containerd/errdefs"
	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/volume"

	"iglu.sh/builder/internal/jobenv"
)

// program is the volume that holds the builder's own program for the containers.
// It is filled once through the engine's API and mounted read-only: no path of the
// engine's machine is needed, and a job pays nothing for it.
type program struct {
	volume string // named by what is in it: another version has another
	size   int64  // of the program, in bytes
}

// ensureProgram returns the name of the volume, filled. The engine is asked at each
// job, because a volume that no container uses can be pruned at any time.
func (d *docker) ensureProgram(ctx context.Context, imageID string, log *slog.Logger) (string, error) {
	if d.program != nil {
		_, err := d.client.VolumeInspect(ctx, d.program.volume)
		if err == nil || !errdefs.IsNotFound(err) {
			return d.program.volume, err
		}
	}
	file, err := os.Open(d.options.Program)
	if err != nil {
		return "", fmt.Errorf("read the builder's own program: %w", err)
	}
	defer file.Close()
	digest := sha256.New()
	size, err := io.Copy(digest, file)
	if err != nil {
		return "", fmt.Errorf("read the builder's own program: %w", err)
	}
	p := &program{volume: d.name("program-" + hex.EncodeToString(digest.Sum(nil)[:6])), size: size}
	if err := d.fill(ctx, p, io.NewSectionReader(file, 0, size), imageID, log); err != nil {
		return "", err
	}
	d.program = p
	return p.volume, nil
}

// fill makes the volume and copies the program into it, through a container that
// mounts it and is never started.
func (d *docker) fill(ctx context.Context, p *program, content io.Reader, imageID string, log *slog.Logger) error {
	labels := map[string]string{labelInstance: d.options.Instance}
	if _, err := d.client.VolumeCreate(ctx, volume.CreateOptions{Name: p.volume, Labels: labels}); err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	created, err := d.client.ContainerCreate(ctx,
		&containertypes.Config{Image: imageID, Entrypoint: []string{jobenv.Program}, Labels: labels},
		&containertypes.HostConfig{
			NetworkMode: "none",
			Mounts:      []mount.Mount{{Type: mount.TypeVolume, Source: p.volume, Target: jobenv.Mount}},
		}, nil, nil, "")
	if err != nil {
		return fmt.Errorf("create the container that fills the volume: %w", err)
	}
	defer d.remove(ctx, created.ID, log.With("container", created.ID))

	// An earlier run may have filled it, or have ended in the middle of that.
	there, err := d.client.ContainerStatPath(ctx, created.ID, path.Join(jobenv.Mount, jobenv.Program))
	if err == nil && there.Size == p.size {
		return nil
	}
	archive, err := programArchive(content, p.size)
	if err != nil {
		return err
	}
	if err := d.client.CopyToContainer(ctx, created.ID, jobenv.Mount, archive, containertypes.CopyToContainerOptions{}); err != nil {
		return fmt.Errorf("copy the program into the volume: %w", err)
	}
	return nil
}

// programArchive is what the volume holds: the program last, so that where it is
// whole, everything is.
func programArchive(content io.Reader, size int64) (io.Reader, error) {
	var begin, end bytes.Buffer
	w := tar.NewWriter(&begin)
	link := &tar.Header{Typeflag: tar.TypeSymlink, Name: jobenv.Askpass, Linkname: jobenv.Program, Mode: 0o777}
	file := &tar.Header{Typeflag: tar.TypeReg, Name: jobenv.Program, Size: size, Mode: 0o755}
	if err := errors.Join(w.WriteHeader(link), w.WriteHeader(file)); err != nil {
		return nil, err
	}
	// The program is passed through as it is: in memory it would stay for long.
	end.Write(make([]byte, (tarBlock-size%tarBlock)%tarBlock+2*tarBlock))
	return io.MultiReader(&begin, content, &end), nil
}

// tarBlock is the size in bytes of the blocks of an archive, of which each file fills
// whole ones and two empty ones are the end: POSIX, pax, ustar Interchange Format.
const tarBlock = 512
