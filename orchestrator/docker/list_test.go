package docker

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/client"
	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/test/kit/fakeengine"
)

// TestAnyRunning asks whether containers of builders run, and fails to.
func TestAnyRunning(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		for body, want := range map[string]bool{`[]`: false, `[{"Id":"1","State":"running"}]`: true} {
			f.fake.Answer(callAt("GET /containers/json", 1), 200, body)
			if got, err := f.AnyRunning(t.Context()); got != want || err != nil {
				t.Errorf("%s: %v, %v", body, got, err)
			}
		}
		const asked = "GET /containers/json?filters=%7B%22label%22%3A%7B%22sh.iglu.builder.instance%22%3Atrue%7D%2C%22status%22%3A%7B%22running%22%3Atrue%7D%7D"
		wantAll(t, "requests", f.requests("GET /containers/json.*"), asked, asked)
		f.fake.Answer(callAt("GET /containers/json", 1), 500, `{"message":"no"}`)
		_, err := f.AnyRunning(t.Context())
		wantTold(t, err, "The container engine failed to list containers: Error response from daemon: no. "+
			"If a setting of the builder is not the cause, its log and the engine's say more. [list containers]")
		f.fake.Refuse(syscall.ECONNREFUSED)
		_, err = f.AnyRunning(t.Context())
		wantTold(t, err, noAnswer)
		if !client.IsErrConnectionFailed(err) { // the agent asks for that
			t.Errorf("%v is no failed connection", err)
		}
	})
}

// TestList has containers of the instance in every state, and one of another instance.
func TestList(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		f.fake.MakeContainer("other", map[string]string{engine.LabelInstance: "other"})
		f.fake.MakeContainer("nobody's", nil)
		f.fake.MakeContainer("leftover", map[string]string{engine.LabelInstance: "test", engine.LabelJob: "7"})
		ended, _ := f.start(t, func(*fakeengine.Process) int { return 3 })
		if _, err := ended.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.fake.Run = func(p *fakeengine.Process) int { <-p.Killed; return 0 }
		running := f.create(t, "two")
		s, err := running.Start(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		own := map[string]string{engine.LabelInstance: "test"}
		want := []engine.Listed{
			{ID: "ID", Name: "leftover", State: engine.Created, Labels: map[string]string{engine.LabelInstance: "test", engine.LabelJob: "7"}},
			{ID: "ID", Name: "one", State: engine.Ended, Labels: own},
			{ID: "ID", Name: "two", State: engine.Running, Labels: own},
		}
		got, err := f.List(t.Context())
		if err != nil {
			t.Error(err)
		}
		for i := range got {
			got[i].ID = plain(got[i].ID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		wantAll(t, "requests", f.requests("GET /containers/json.*"), `GET /containers/json?all=1&filters=%7B%22label%22%3A%7B%22sh.iglu.builder.instance%3Dtest%22%3Atrue%7D%7D`)
	})
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		f.fake.Answer(callAt("GET /containers/json", 1), 200, `[{"Id":"1","Names":[],"State":"removing"}]`)
		got, err := f.List(t.Context())
		if diff := cmp.Diff([]engine.Listed{{ID: "1", State: engine.Ended}}, got); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
	for fault, test := range map[fakeengine.Fault]struct {
		want string
		took time.Duration
	}{
		"500":           {failedTo("list containers", says), 0},
		fakeengine.Gone: {stoppedAnswering("list containers"), 0},
		fakeengine.Stall: {failedTo("list containers", `Get "http://%2Frun%2Fdocker.sock/v1.41/containers/json?all=1&filters=`+
			`%7B%22label%22%3A%7B%22sh.iglu.builder.instance%3Dtest%22%3Atrue%7D%7D": context deadline exceeded`), 2 * time.Minute},
	} {
		bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
			f.fake.Break(callAt("GET /containers/json", 1), fault)
			begun := time.Now()
			_, err := f.List(t.Context())
			wantTold(t, err, test.want)
			wantTook(t, begun, test.took)
		})
	}
}

// TestListWithoutHelpers lists the containers while the program is copied into its volume, which can take minutes. The builder
// does not see the two containers that it needs for that, so it does not remove them as leftovers. Others see them.
func TestListWithoutHelpers(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		other := f.builder(t, f.options)
		names := func(d *Engine) string {
			t.Helper()
			found, err := d.List(t.Context())
			if err != nil {
				t.Error(err)
			}
			var all []string
			for _, c := range found {
				all = append(all, c.Name)
			}
			slices.Sort(all)
			return strings.Join(all, ", ")
		}
		f.fake.MakeNetwork(jobsNetwork, instanceLabel)
		filled := f.fake.At(callAt("PUT /containers/.*/archive", 1), func() {
			wantEqual(t, "while it is filled", names(f.Engine), "")
			wantEqual(t, "while it is filled, to another", names(other), ", "+programLock)
		})
		f.fake.Break(callAt("DELETE /containers/.*", 1), "500") // of the filler
		f.create(t, "one")
		wantEqual(t, "filled", filled(), true)
		wantEqual(t, "after that", names(f.Engine), ", one")
	})
}

// TestStates has the words that engines have for what a container is doing.
func TestStates(t *testing.T) {
	t.Parallel()
	for state, words := range map[engine.State][]string{
		engine.Created: {"created", "configured"},
		engine.Running: {"running", "paused", "restarting", "stopping", "a word of tomorrow", ""},
		engine.Ended:   {"exited", "dead", "stopped", "removing"},
	} {
		for _, word := range words {
			wantEqual(t, word, stateOf(word), state)
		}
	}
}
