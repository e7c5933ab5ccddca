//go:build integration && long

package source

import (
	"strings"
	"testing"

	"iglu.sh/builder/test/kit/fixture"
	"iglu.sh/builder/test/kit/gitserver"
)

// TestSilentServers clones from servers that accept a connection and send nothing. Each job ends after a time-out.
func TestSilentServers(t *testing.T) {
	listener, err := gitserver.Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
		}
	}()
	address := listener.Addr().String()
	g := &fixture.Env.Git
	if err := g.Commit("silent-submodule", "main", map[string]string{
		".gitmodules": "[submodule \"silent\"]\n\tpath = silent\n\turl = http://" + address + "/silent\n", "text": "built",
	}); err != nil {
		t.Fatal(err)
	}
	if err := addSubmodule(t, "silent-submodule", "silent", "hello"); err != nil {
		t.Fatal(err)
	}
	const silence = "iglu: git has waited 2m0s for a server that sends nothing"
	for name, test := range map[string]struct {
		repository string
		code       int
		lines      []string
	}{
		"git":       {"git://" + address + "/silent", 128, []string{silence, "iglu: could not clone"}},
		"http":      {"http://" + address + "/silent", 128, []string{silence, "iglu: could not clone"}},
		"ssh":       {"ssh://git@" + address + "/silent", 128, []string{"timed out", "iglu: could not clone"}}, // the time-out of ssh
		"submodule": {g.Public + "/silent-submodule", 0, []string{silence, "iglu: warning: the submodule silent could not be fetched", "built"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := fixture.OwnServer(t)
			c := fixture.Connect(t, s)
			c.SendJob(fixture.Build(test.repository, "env cat text"))
			ended := c.InBackground()
			if status, _ := s.Get(t, "GET", "/livez"); status != 200 {
				t.Errorf("/livez answers %d while git waits", status)
			}
			got := <-ended
			fixture.WantExit(t, got, test.code)
			for _, line := range test.lines {
				fixture.WantLine(t, got, line)
			}
			if test.code != 0 && strings.Contains(strings.Join(got.Lines, ""), "137") {
				t.Error("the message says that the job was killed from outside")
			}
		})
	}
}
