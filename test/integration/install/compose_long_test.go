//go:build integration && long

package install

import "testing"

// TestCompose brings the stack of docker-compose.yml up as a user does who builds it, with an image
// of this machine's Go in place of golang's. It compiles everything once more; all else is
// TestComposeImage's as well, which make test has.
func TestCompose(t *testing.T) {
	s := newStack(t)
	s.mustCompose("build", "--build-arg", "GO_IMAGE="+s.goImage())
	s.mustCompose("up", "--detach", "--no-build")
	s.checkWorks(s.container())
}

// goImage returns an image that stands in for golang's. It has a label of this stack,
// and so has each image that the classic builder makes from it and leaves behind.
func (s *stack) goImage() string {
	s.t.Helper()
	base := s.must(s.run("test/integration/install/testdata/golang", s.jobImage))
	container := s.mustDocker("create", base, "true")
	defer s.docker("container", "rm", container)
	name := "iglu-builder/test-golang:" + s.name
	s.mustDocker("commit", "--change", "LABEL "+instanceLabel+"="+s.name, container, name)
	return name
}
