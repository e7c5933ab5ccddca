package jobrun

import (
	"os"
	"path/filepath"
	"testing"

	"iglu.sh/builder/internal/jobenv"
)

// A job's own token for a host replaces the image's.
func TestTokenSettings(t *testing.T) {
	got := tokenSettings("a.example=job b.example=job", "# of the image\naccess-tokens = a.example=image c.example=image\n")
	if want := "access-tokens = a.example=job b.example=job c.example=image\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Settings that the image's nix.conf includes count as the image's: a job has no others in their place, and the image's
// tokens for other hosts stay.
func TestIncludedSettings(t *testing.T) {
	image := t.TempDir()
	t.Setenv(confVariable, image)
	for name, text := range map[string]string{
		"nix.conf":        "cores = 7\n!include nix.custom.conf\n",
		"nix.custom.conf": "max-jobs = 1\nnetrc-file = /image's\nextra-access-tokens = c.example=image\n",
	} {
		if err := os.WriteFile(filepath.Join(image, name), []byte(text), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	others := settingsOfOthers(jobenv.Job{})
	if got := inParallel(jobenv.Job{CPUs: "2"}, others); got != "" {
		t.Errorf("the job has %q", got)
	}
	if got := netrcOfOthers(others); got != "/image's" {
		t.Errorf("its netrc is %s", got)
	}
	if got, want := tokenSettings("a.example=job", readConfOfImage()), "access-tokens = a.example=job c.example=image\n"; got != want {
		t.Errorf("its tokens: %q, want %q", got, want)
	}
}

// The image's files are not changed, and are in the job's folder as well.
func TestWriteConf(t *testing.T) {
	image, job := t.TempDir(), filepath.Join(t.TempDir(), "conf")
	for name, text := range map[string]string{"nix.conf": "cores = 1\n", "machines": "somewhere\n"} {
		if err := os.WriteFile(filepath.Join(image, name), []byte(text), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeConf(job, image, "cores = 2\n"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		filepath.Join(job, "nix.conf"):   "!include " + image + "/nix.conf\ncores = 2\n",
		filepath.Join(job, "machines"):   "somewhere\n",
		filepath.Join(image, "nix.conf"): "cores = 1\n",
	} {
		if text, err := os.ReadFile(name); err != nil || string(text) != want {
			t.Errorf("%s: %q, error %v; want %q", name, text, err, want)
		}
	}
	if err := writeConf(filepath.Join(t.TempDir(), "conf"), filepath.Join(image, "none"), "cores = 2\n"); err != nil {
		t.Errorf("of an image without settings: %v", err)
	}
}

func TestWithSettings(t *testing.T) {
	for before, want := range map[string]string{"": "\na = 1\n", "b = 2": "b = 2\na = 1\n", "b = 2\n": "b = 2\na = 1\n"} {
		got := withSettings([]string{"X=y", jobenv.NixConfig + "=" + before}, "a = 1\n")
		if len(got) != 2 || got[1] != jobenv.NixConfig+"="+want {
			t.Errorf("%q: got %q", before, got)
		}
	}
}

// The key of a cache is sent to its host only, and only if the job's netrc has no entry for the host.
func TestCacheEntry(t *testing.T) {
	for _, test := range []struct{ cache, key, netrc, want, err string }{
		{"https://cache.example.com:8443/default", "key", "machine other.example password x", "machine cache.example.com password key\n", ""},
		{"https://cache.example.com/default", "key", "machine a\n machine CACHE.example.com login b password c", "", ""},
		{"https://cache.example.com/default", "key", "default login a password b", "machine cache.example.com password key\n", ""},
		{"https://cache.example.com/default", "a key", "", "", "the API key has a character that a netrc file cannot have"},
		{"https://cache.example.com/default", "key\nmachine other.example password x", "", "", "the API key has a character that a netrc file cannot have"},
	} {
		got, err := cacheEntry(test.cache, test.key, test.netrc)
		if got != test.want || (err == nil) != (test.err == "") || err != nil && err.Error() != test.err {
			t.Errorf("%+v: got %q, error %v", test, got, err)
		}
	}
}

// The netrc that a job adds to is the one that Nix would read without it: that of the operator's settings, which follow
// the image's.
func TestNetrcOfOthers(t *testing.T) {
	t.Setenv(confVariable, "/image")
	for settings, want := range map[string]string{
		"":                        "/image/netrc",
		"netrc-file = /image's\n": "/image's",
		"netrc-file = /image's\nsandbox = false\nnetrc-file = /operator's\n": "/operator's",
	} {
		if got := netrcOfOthers(settings); got != want {
			t.Errorf("with %q it is %s, want %s", settings, got, want)
		}
	}
}
