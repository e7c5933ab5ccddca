package docker

import (
	"strings"
	"testing"

	"iglu.sh/builder/images"
)

// TestReady checks that the engine is ready while a job's container could be created, and else says why not.
func TestReady(t *testing.T) {
	t.Parallel()
	const notPulled = "The job image missing:1 is not on the engine and cannot be pulled: "
	pull := func(t *testing.T, f *fixture) { f.Image(t.Context(), func(string) {}) }
	for name, test := range map[string]struct {
		change  func(*Options)
		prepare func(t *testing.T, f *fixture)
		want    string
	}{
		"all is there":        {nil, nil, ""},
		"image never pulled":  {func(o *Options) { o.Pull, o.Image = images.PullNever, "missing:1" }, nil, notPulled + "it is never pulled (IGLU_PULL). "},
		"image not pulled":    {func(o *Options) { o.Image = "missing:1" }, pull, notPulled},
		"image to be pulled":  {func(o *Options) { o.Image = "missing:1" }, nil, ""},
		"no such network":     {func(o *Options) { o.Network = "gone" }, nil, "The network gone is not on the container engine. "},
		"network that is":     {func(o *Options) { o.Network = "bridge" }, func(_ *testing.T, f *fixture) { f.fake.MakeNetwork("bridge", nil) }, ""},
		"without any network": {func(o *Options) { o.Network = noNetwork }, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, test.change, func(t *testing.T, f *fixture) {
				if test.prepare != nil {
					test.prepare(t, f)
				}
				before := len(f.requests("POST /.*"))
				err := f.Ready(t.Context())
				if (err == nil) != (test.want == "") || err != nil && !strings.HasPrefix(err.Error(), test.want) {
					t.Errorf("got %v, want %q", err, test.want)
				}
				if made := f.requests("POST /.*"); len(made) > before {
					t.Errorf("it has made something: %q", made[before:])
				}
			})
		})
	}
}
