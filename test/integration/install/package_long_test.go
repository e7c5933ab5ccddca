//go:build integration && long

package install

import (
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"iglu.sh/builder/test/kit/fixture"
)

const (
	service   = "iglu-builder.service"
	stateDir  = "/var/lib/iglu-builder"
	confDir   = "/etc/iglu-builder"
	confFile  = confDir + "/env"
	unitFile  = "/usr/lib/systemd/system/" + service
	jobOutput = "nix (Nix) "
)

// A machine is a container with Debian and systemd as its first process. It uses this machine's engine.
type machine struct {
	*stack
	id string
}

func startMachine(t *testing.T) *machine {
	t.Helper()
	s := &stack{t: t, name: "package-test-" + strings.ToLower(rand.Text()[:8])}
	m := &machine{stack: s}
	image := s.must(s.run("test/integration/install/testdata/debian"))
	m.id = s.mustDocker("run", "--detach", "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
		"--cgroupns", "private", "--tmpfs", "/run", "--tmpfs", "/tmp", "--volume", engineSocket+":/run/docker.sock", image)
	t.Cleanup(func() {
		s.mustDocker("rm", "--force", m.id)
		fixture.RemoveAll("", s.name)
	})
	fixture.DockerEngine().Exec(t, m.id, "systemctl", "is-system-running", "--wait")
	socket, err := os.Stat(engineSocket)
	if err != nil {
		t.Fatal(err)
	}
	m.do("groupadd", "--non-unique", "--gid", fmt.Sprint(socket.Sys().(*syscall.Stat_t).Gid), "docker")
	return m
}

// try runs a command on the machine and returns its output.
func (m *machine) try(command ...string) (string, error) {
	return m.docker(append([]string{"exec", m.id}, command...)...)
}

func (m *machine) do(command ...string) string {
	m.t.Helper()
	return m.must(m.try(command...))
}

// files returns the paths of all files on the machine, without those that change with any installation.
func (m *machine) files() []string {
	m.t.Helper()
	return strings.Split(m.do("sh", "-c", `find / -xdev \( -path /var/lib/dpkg -o -path /var/lib/rpm -o -path /var/log -o -path /var/cache \
		-o -path /root -o -path '/var/tmp/*' -o -path '/etc/*-' -o -path /etc/.pwd.lock -o -path /usr/lib/sysimage \) -prune -o -print`), "\n")
}

// wantLeft checks that new files since before are only in some folders.
func (m *machine) wantLeft(before []string, folders ...string) {
	m.t.Helper()
	for _, file := range m.files() {
		expected := slices.ContainsFunc(folders, func(folder string) bool { return file == folder || strings.HasPrefix(file, folder+"/") })
		if !expected && !slices.Contains(before, file) {
			m.t.Errorf("%s is left", file)
		}
	}
}

// start starts the service with the settings of this test.
func (m *machine) start() {
	m.t.Helper()
	if got := m.do("systemctl", "show", "--property=ActiveState,UnitFileState", "--value", service); got != "inactive\ndisabled" {
		m.t.Errorf("once installed, the service is %q", got)
	}
	m.do("sh", "-c", fmt.Sprintf("printf 'IGLU_INSTANCE=%s\\nIGLU_JOB_IMAGE=%s\\n' >>%s", m.name, m.findJobImage(), confFile))
	if output, err := m.docker("exec", m.id, "sh", "-c", "systemd-analyze verify "+unitFile+" 2>&1"); err != nil || output != "" {
		m.t.Errorf("systemd on the unit: %v: %s", err, output)
	}
	m.do("systemctl", "enable", "--now", service) // it waits until the builder says that it is ready
}

// checkService checks the user of the service, and that it runs a job.
func (m *machine) checkService() {
	m.t.Helper()
	pid := m.do("systemctl", "show", "--property=MainPID", "--value", service)
	owner := m.do("stat", "--format", "%U %A", stateDir, "/proc/"+pid)
	if !strings.HasPrefix(owner, "iglu-builder drwx------\niglu-builder ") {
		m.t.Errorf("the users of the state and the service: %q", owner)
	}
	m.do("iglu-builder", "healthcheck")
	if got := m.do("iglu-builder", "build", "--command", "nix --version"); !strings.Contains(got, jobOutput) {
		m.t.Errorf("a job prints %q", got)
	}
}

// clear removes what the builder has made on the engine, with the commands in docs/install.md.
func (m *machine) clear() {
	m.t.Helper()
	m.do("iglu-builder", "stores", "rm", "--all", "--instance", m.name, "--state-dir", stateDir)
	if err := fixture.AwaitEngine("", 30*time.Second, func() bool { return m.kinds()["container"] == 0 }); err != nil {
		m.t.Fatal(err)
	}
	m.do("iglu-builder", "cleanup", "--instance", m.name)
	if left := m.labelled(instanceLabel); len(left) > 0 {
		m.t.Errorf("left on the engine: %q", left)
	}
}

// checkRemoved checks that the service is removed.
func (m *machine) checkRemoved() {
	m.t.Helper()
	if got := m.do("systemctl", "show", "--property=LoadState,ActiveState", "--value", service); got != "not-found\ninactive" {
		m.t.Errorf("once removed, the service is %q", got)
	}
}

// testDeb installs the Debian package, runs a job, and upgrades, removes and purges the package.
func (r *release) testDeb() {
	m := startMachine(r.t)
	before := m.files()
	m.mustDocker("cp", r.named("amd64.deb"), m.id+":/root/builder.deb")
	m.do("dpkg", "--install", "/root/builder.deb")
	m.start()
	m.checkService()

	pid := m.do("systemctl", "show", "--property=MainPID", "--value", service)
	m.do("dpkg", "--install", "/root/builder.deb")
	if again := m.do("systemctl", "show", "--property=MainPID", "--value", service); again == pid {
		r.t.Error("an upgrade leaves the old program running")
	}
	m.checkService() // with the same settings
	m.clear()

	m.do("dpkg", "--remove", "iglu-builder")
	m.checkRemoved()
	m.wantLeft(before, stateDir, confDir)
	m.do("test", "-e", stateDir+"/"+m.name+"/history.db", "-a", "-e", confFile)
	m.do("dpkg", "--purge", "iglu-builder")
	m.wantLeft(before)
	if user, err := m.try("getent", "passwd", "iglu-builder"); err == nil {
		r.t.Errorf("the user is left: %s", user)
	}
}

// testRPM does the same with the RPM package, on the same kind of machine. Flags of rpm make it ignore that the
// machine is a Debian.
func (r *release) testRPM() {
	m := startMachine(r.t)
	before := m.files()
	m.mustDocker("cp", r.named("amd64.rpm"), m.id+":/root/builder.rpm")
	if got, want := m.do("rpm", "--query", "--package", "--queryformat", "%{VERSION}-%{RELEASE}.%{ARCH}", "/root/builder.rpm"),
		strings.Replace(r.Version, "-", "~", 1)+"-1.x86_64"; got != want {
		r.t.Errorf("the .rpm says %q, want %q", got, want)
	}
	rpm := func(args ...string) { m.do(append([]string{"rpm", "--force-debian", "--nodeps"}, args...)...) }
	rpm("--install", "/root/builder.rpm")
	m.start()
	m.checkService()

	pid := m.do("systemctl", "show", "--property=MainPID", "--value", service)
	rpm("--upgrade", "--replacepkgs", "/root/builder.rpm")
	if again := m.do("systemctl", "show", "--property=MainPID", "--value", service); again == pid {
		r.t.Error("an upgrade leaves the old program running")
	}
	m.checkService()
	m.clear()

	rpm("--erase", "iglu-builder")
	m.checkRemoved()
	m.wantLeft(before, stateDir, confDir) // rpm keeps settings that were changed
	m.do("test", "-e", stateDir+"/"+m.name+"/history.db", "-a", "-e", confFile+".rpmsave")
}
