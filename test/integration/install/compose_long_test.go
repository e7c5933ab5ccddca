//go:build integration && long

package install

import "testing"

// TestCompose starts the stack of docker-compose.yml as a user does who builds the image, with an image of this
// machine's Go instead of the golang image. It compiles everything again, so it is in the long suite. The rest
// is also tested by TestComposeImage.
func TestCompose(t *testing.T) {
	s := newStack(t)
	s.mustCompose("build", "--build-arg", "GO_IMAGE="+s.goImage())
	s.mustCompose("up", "--detach", "--no-build")
	s.checkWorks(s.container())
}

// goImage returns an image that replaces the golang image. It has a label of this stack, which the intermediate
// images of Docker's classic builder inherit.
func (s *stack) goImage() string {
	s.t.Helper()
	base := s.must(s.run("test/integration/install/testdata/golang", s.jobImage))
	container := s.mustDocker("create", base, "true")
	defer s.docker("container", "rm", container)
	name := "iglu-builder/test-golang:" + s.name
	s.mustDocker("commit", "--change", "LABEL "+instanceLabel+"="+s.name, container, name)
	return name
}
