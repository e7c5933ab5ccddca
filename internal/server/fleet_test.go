package server

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"

	"iglu.sh/builder/orchestrator/docker"
	"iglu.sh/builder/test/kit/fakeengine"
)

// TestReplacedEngine replaces the container engine by one with another version of the API, again and again. The server
// does not notice, and the fleet knows the engine that is used.
func TestReplacedEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := fakeengine.Start(t, fakeengine.Docker)
		opened, err := docker.New(docker.Options{Host: "unix:///run/docker.sock", Instance: "test", Image: fakeengine.ImageRef, Dial: fake.Dial},
			slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		f := &fleet{engines: make(map[string]*docker.Engine)}
		e := f.add("", opened)
		for _, version := range []string{"1.43", "1.52", "1.47", "1.41"} {
			fake.APIVersion = version
			_, infoErr := e.Info(t.Context())
			_, listErr := e.List(t.Context())
			_, volumesErr := e.Volumes().List(t.Context())
			if err := errors.Join(infoErr, listErr, e.Ready(t.Context()), volumesErr); err != nil {
				t.Errorf("with version %s: %v", version, err)
			}
			if f.engines[""] != e.current() {
				t.Errorf("with version %s, the fleet knows another engine", version)
			}
		}
		fake.APIVersion = "1.44"
		if _, err := e.List(t.Context()); err != nil {
			t.Error(err)
		}
		if f.engines[""] == opened {
			t.Error("the first engine is still used")
		}
		if err := e.Close(); err != nil || len(f.engines) > 0 {
			t.Errorf("%v, and %d engines are known", err, len(f.engines))
		}
	})
}
