//go:build integration && long

package install

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// A release has the files that 'make release-snapshot' makes.
type release struct {
	*stack
	Version, Commit string
}

// TestRelease makes a release as 'make release-snapshot' does, and checks all its files.
func TestRelease(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Fatal("this test needs an amd64 machine: it runs programs for arm64 in an emulator")
	}
	made := makeRelease(t)
	for _, part := range []struct {
		name string
		test func(r *release)
	}{
		{"files", (*release).testFiles},
		{"versions", (*release).testVersions},
		{"images", (*release).testImages},
		{"deb", (*release).testDeb},
		{"rpm", (*release).testRPM},
	} {
		t.Run(part.name, func(t *testing.T) {
			r := *made
			r.stack = &stack{t: t, name: made.name}
			part.test(&r)
		})
	}
}

func makeRelease(t *testing.T) *release {
	t.Helper()
	r := &release{stack: &stack{t: t, name: "release"}}
	r.must(r.run("make", "release-snapshot"))
	text, err := os.ReadFile(r.file("metadata.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, arch := range []string{"amd64", "arm64"} {
			r.mustDocker("image", "rm", r.imageFor(arch))
		}
	})
	return r
}

// file returns the path of a file of the release.
func (r *release) file(name string) string { return filepath.Join(root, "dist", name) }

// named returns the absolute path of the file whose name has the version and ends with a suffix.
func (r *release) named(suffix string) string {
	r.t.Helper()
	path, err := filepath.Abs(r.file("iglu-builder_" + r.Version + "_linux_" + suffix))
	if err != nil {
		r.t.Fatal(err)
	}
	return path
}

func (r *release) imageFor(arch string) string { return imageName + ":" + r.Version + "-" + arch }

// testFiles checks that the files exist, and their checksums.
func (r *release) testFiles() {
	checksums, err := os.ReadFile(r.file("checksums.txt"))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		for _, kind := range []string{".tar.gz", ".deb", ".rpm", ".cdx.json"} {
			if name := filepath.Base(r.named(arch + kind)); !strings.Contains(string(checksums), "  "+name+"\n") {
				r.t.Errorf("checksums.txt has no %s", name)
			}
		}
	}
	r.must(r.run("sh", "-c", "cd dist && sha256sum --check --quiet checksums.txt"))
	archive := strings.Fields(r.must(r.run("tar", "-tf", r.named("amd64.tar.gz"))))
	for _, file := range []string{"iglu-builder", "README.md", "CHANGELOG.md", "docs/install.md", "examples/iglu-builder.service", "examples/iglu-builder.env"} {
		if want := "iglu-builder_" + r.Version + "_linux_amd64/" + file; !strings.Contains(strings.Join(archive, "\n")+"\n", want+"\n") {
			r.t.Errorf("the archive has no %s: %q", want, archive)
		}
	}
}

// testVersions checks that the programs, the packages and the lists of modules have the same version.
func (r *release) testVersions() {
	const program = "dist/iglu-builder_linux_"
	says := "iglu-builder " + r.Version + " " + r.Commit + " "
	for name, command := range map[string][]string{
		"amd64": {program + "amd64_v1/iglu-builder", "version"},
		"arm64": {"qemu-aarch64-static", program + "arm64_v8.0/iglu-builder", "version"},
	} {
		if got := r.must(r.run(command[0], command[1:]...)); !strings.HasPrefix(got, says) {
			r.t.Errorf("the program for %s says %q, want %q", name, got, says)
		}
	}
	// In the version of a package, a tilde marks a pre-release.
	packaged := strings.Replace(r.Version, "-", "~", 1)
	for _, arch := range []string{"amd64", "arm64"} {
		if got := r.must(r.run("dpkg-deb", "--show", "--showformat=${Version} ${Architecture}", r.named(arch+".deb"))); got != packaged+" "+arch {
			r.t.Errorf("the .deb says %q, want %s %s", got, packaged, arch)
		}
		var list struct {
			Metadata   struct{ Component struct{ Version string } }
			Components []struct{ Name, Version string }
		}
		text, err := os.ReadFile(r.named(arch + ".cdx.json"))
		if err != nil {
			r.t.Fatal(err)
		}
		if err := json.Unmarshal(text, &list); err != nil || list.Metadata.Component.Version != r.Version || len(list.Components) == 0 {
			r.t.Errorf("the list of the modules for %s: %v, %+v, want version %s", arch, err, list, r.Version)
		}
	}
}

// testImages checks the metadata of the images, and runs one.
func (r *release) testImages() {
	const format = `{{.Architecture}} {{.Config.User}} {{index .Config.Labels "org.opencontainers.image.version"}} ` +
		`{{index .Config.Labels "org.opencontainers.image.revision"}} {{.Config.Healthcheck.Test}}`
	for _, arch := range []string{"amd64", "arm64"} {
		want := arch + " 65532:65532 " + r.Version + " " + r.Commit + " [CMD /iglu-builder healthcheck]"
		if got := r.mustDocker("image", "inspect", "--format", format, r.imageFor(arch)); got != want {
			r.t.Errorf("the image for %s is %q, want %q", arch, got, want)
		}
	}
	if got := r.mustDocker("run", "--rm", r.imageFor("amd64"), "version"); !strings.HasPrefix(got, "iglu-builder "+r.Version+" ") {
		r.t.Errorf("the image's program says %q, want version %s", got, r.Version)
	}
}
