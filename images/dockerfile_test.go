package images

import (
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDockerfiles checks that the builder's image is the same if it is built from the source and for a
// release, except for the origin of the files.
func TestDockerfiles(t *testing.T) {
	var images []string
	for _, name := range []string{"Dockerfile", "release.Dockerfile"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		last := regexp.MustCompile(`(?s)\nFROM scratch\n.*`).Find(text)
		images = append(images, string(regexp.MustCompile(`(?m)^COPY .*`).ReplaceAll(last, []byte("COPY"))))
	}
	if diff := cmp.Diff(images[0], images[1]); diff != "" || images[0] == "" {
		t.Errorf("the image of the source and that of a release differ (-source +release):\n%s", diff)
	}
}
