package jobrun

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/internal/jobenv"
)

// The kernel keeps showing the environment that a process was started with, whatever the process does
// to it. So PID 1 executes its program twice. The first time, it copies the environment into a sealed
// memory file. The second time, it has no environment: it reads the file and closes it.

// handOver executes the program again, with the environment in a memory file. It returns only
// if that fails. The process keeps its id.
func handOver() error {
	fd, err := unix.MemfdCreate("job", unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("make a file in memory: %w", err)
	}
	file := os.NewFile(uintptr(fd), "job")
	if _, err := file.WriteString(strings.Join(os.Environ(), "\x00")); err != nil {
		return fmt.Errorf("write a file in memory: %w", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("seal a file in memory: %w", err)
	}
	runtime.LockOSThread() // capabilities belong to a thread
	if err := dropInheritable(); err != nil {
		return err
	}
	err = unix.Exec("/proc/self/exe", []string{os.Args[0], "job", strconv.Itoa(fd)}, nil)
	runtime.KeepAlive(file)
	return fmt.Errorf("execute the program again: %w", err)
}

// dropInheritable removes the inheritable capabilities: a program of another user could regain them
// by executing a file that has them. Engines before Docker 20.10.14 set them (CVE-2022-24769).
func dropInheritable() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("drop inheritable capabilities: %w", err)
	}
	return nil
}

// takeOver reads the job from the file that handOver has written, and sets the rest of the
// environment again. descriptor is the number of the file.
func takeOver(descriptor string) (job jobenv.Job, rest []string, err error) {
	fd, err := strconv.Atoi(descriptor)
	if err != nil {
		return jobenv.Job{}, nil, err
	}
	file := os.NewFile(uintptr(fd), "job")
	if file == nil {
		return jobenv.Job{}, nil, errors.New("there is no such file")
	}
	text, err := io.ReadAll(io.NewSectionReader(file, 0, maxEnvironment))
	if err := errors.Join(err, file.Close()); err != nil {
		return jobenv.Job{}, nil, err
	}
	job, rest = jobenv.Parse(strings.Split(string(text), "\x00"))
	for _, entry := range rest {
		name, value, _ := strings.Cut(entry, "=")
		if err := os.Setenv(name, value); err != nil {
			return jobenv.Job{}, nil, fmt.Errorf("set %s again: %w", name, err)
		}
	}
	return job, rest, nil
}

// maxEnvironment is more than the kernel accepts as the environment of a program, in bytes. The
// kernel's limit is a quarter of the stack's limit (usually 8 MiB), and at most 6 MiB.
const maxEnvironment = 8 << 20
