package jobrun

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/nixconf"
)

// The kernel of the engine's machine may run programs for other systems by an emulator (binfmt_misc). To
// find out, this program runs a minimal program for each system.

// A system is a kind of machine for which Nix builds.
type system struct {
	goArch  string // its GOARCH
	class   byte   // EI_CLASS of its ELF files: 1 for 32 bits, 2 for 64
	machine uint16 // e_machine of its ELF files: elf(5)
	flags   uint32 // e_flags of its ELF files
	exit    []byte // instructions that make Linux's system call exit with 0
}

var systems = []system{
	// mov eax, 60; xor edi, edi; syscall
	{"amd64", 2, 62, 0, []byte{0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05}},
	// mov eax, 1; xor ebx, ebx; int 0x80
	{"386", 1, 3, 0, []byte{0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80}},
	// mov x8, 93; mov x0, 0; svc 0
	{"arm64", 2, 183, 0, words(0xd2800ba8, 0xd2800000, 0xd4000001)},
	// mov r7, 1; mov r0, 0; svc 0, for version 5 of the EABI
	{"arm", 1, 40, 0x05000000, words(0xe3a07001, 0xe3a00000, 0xef000000)},
	// li a7, 93; li a0, 0; ecall
	{"riscv64", 2, 243, 0, words(0x05d00893, 0x00000513, 0x00000073)},
}

func words(instructions ...uint32) []byte {
	var code []byte
	for _, instruction := range instructions {
		code = binary.LittleEndian.AppendUint32(code, instruction)
	}
	return code
}

// loadAt is the address at which these programs are loaded, and pageSize their alignment in bytes.
const loadAt, pageSize = 0x10000, 0x1000

// program returns an ELF file that exits with 0 immediately: elf(5).
func (s system) program() []byte {
	ident := [16]byte{0x7f, 'E', 'L', 'F', s.class, 1, 1}
	const executable, version, loaded, readAndExecute = 2, 1, 1, 5
	var file bytes.Buffer
	write := func(parts ...any) {
		for _, part := range parts {
			binary.Write(&file, binary.LittleEndian, part)
		}
	}
	if s.class == 1 {
		const header, segment = 52, 32
		size := uint32(header + segment + len(s.exit))
		write(ident, uint16(executable), s.machine, uint32(version), uint32(loadAt+header+segment), uint32(header), uint32(0), s.flags,
			[]uint16{header, segment, 1, 0, 0, 0})
		write(uint32(loaded), uint32(0), uint32(loadAt), uint32(loadAt), size, size, uint32(readAndExecute), uint32(pageSize))
	} else {
		const header, segment = 64, 56
		size := uint64(header + segment + len(s.exit))
		write(ident, uint16(executable), s.machine, uint32(version), uint64(loadAt+header+segment), uint64(header), uint64(0), s.flags,
			[]uint16{header, segment, 1, 0, 0, 0})
		write(uint32(loaded), uint32(readAndExecute), uint64(0), uint64(loadAt), uint64(loadAt), size, size, uint64(pageSize))
	}
	write(s.exit)
	return file.Bytes()
}

// runs reports whether the container can run programs for a system. No other program may be started
// meanwhile: it would inherit the file open for writing, and such a file cannot be executed.
func (s system) runs(c *children) bool {
	file, err := os.CreateTemp("", "iglu-*")
	if err != nil {
		return false
	}
	defer os.Remove(file.Name())
	_, err = file.Write(s.program())
	chmodErr := file.Chmod(0o700)
	if closeErr := file.Close(); err != nil || chmodErr != nil || closeErr != nil {
		return false
	}
	exited, err := c.start(process{program: file.Name(), argv: []string{file.Name()}, dir: "/"})
	if err != nil {
		return false
	}
	defer time.AfterFunc(runTimeout, func() { c.signalAll(unix.SIGKILL) }).Stop()
	return <-exited == 0
}

// runTimeout is how long one of these programs may run. An emulator can take a while to start.
const runTimeout = 10 * time.Second

// foreignSystems returns the systems, other than its own, whose programs the container can run. It omits
// those that Nix supports by default.
func foreignSystems(c *children) []string {
	var names []string
	for _, s := range systems {
		if s.goArch != runtime.GOARCH && !(s.goArch == "386" && runtime.GOARCH == "amd64") && s.runs(c) {
			names = append(names, jobenv.Systems[s.goArch])
		}
	}
	return names
}

// ownSystem returns Nix's name of this program's own system.
func ownSystem() string { return jobenv.Systems[runtime.GOARCH] }

// systemSettings returns settings with which Nix builds for all systems that the container can run, and by
// default for the job's system. It returns an error if the container cannot run programs for the job's
// system and the other settings have no remote builders.
func systemSettings(job jobenv.Job, foreign []string, others string) (string, error) {
	var lines nixconf.Lines
	if job.System != "" && job.System != ownSystem() {
		builders, _ := nixconf.Get(others, "builders")
		isNixs := job.System == jobenv.Systems["386"] && runtime.GOARCH == "amd64"
		if !slices.Contains(foreign, job.System) && !isNixs && builders == "" {
			return "", fmt.Errorf("the job is for %s, whose programs this machine does not run", job.System)
		}
		lines.Set("system", job.System)
		foreign = append(slices.Clone(foreign), ownSystem())
	}
	// The name of the setting is extra-platforms. The prefix adds to its value.
	lines.SetList("extra-extra-platforms", foreign)
	return lines.String(), nil
}
