package docker

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/test/kit/fakeengine"
)

// storeLabels are those of the store of a repository.
func storeLabels(repository string) map[string]string {
	return map[string]string{engine.LabelInstance: "test", engine.LabelStore: repository}
}

// TestVolumes makes, finds, lists and removes stores.
func TestVolumes(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		f.fake.MakeVolume("nobody's", nil)
		f.fake.MakeVolume("other's", map[string]string{engine.LabelInstance: "other", engine.LabelStore: "r"})
		f.fake.MakeVolume("no-store", instanceLabel)
		volumes, ctx := f.Volumes(), t.Context()
		_, err := volumes.Get(ctx, "b")
		if err != engine.ErrNotFound {
			t.Errorf("got %v, want %v", err, engine.ErrNotFound)
		}
		wantTold(t, volumes.Create(ctx, engine.Volume{Name: "b", Labels: map[string]string{engine.LabelStore: "r"}}), "")
		wantTold(t, volumes.Create(ctx, engine.Volume{Name: "a", Labels: map[string]string{engine.LabelStore: ""}}), "")
		a, b := engine.Volume{Name: "a", Labels: storeLabels("")}, engine.Volume{Name: "b", Labels: storeLabels("r")}
		got, err := volumes.Get(ctx, "b")
		if diff := cmp.Diff(b, got); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		all, err := volumes.List(ctx)
		if diff := cmp.Diff([]engine.Volume{a, b}, all); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		f.fake.Hold("a")
		inUse := "remove a: volume is in use - [ID]"
		if f.podman {
			inUse = "volume a is being used by the following container(s): ID: volume is being used"
		}
		err = volumes.Remove(ctx, "a")
		wantTold(t, err, "it is in use: Error response from daemon: "+inUse)
		if !errors.Is(err, engine.ErrInUse) {
			t.Error("it is not in use")
		}
		for range 2 { // then it is gone
			wantTold(t, volumes.Remove(ctx, "b"), "")
		}
		wantEqual(t, "left", f.left(), "container holder-of-a created, volume a, volume no-store, volume nobody's, volume other's")
	})
}

// TestVolumesFail lets the calls on volumes fail.
func TestVolumesFail(t *testing.T) {
	t.Parallel()
	const (
		host   = "http://%2Frun%2Fdocker.sock/v1.41/volumes"
		filter = "?filters=%7B%22label%22%3A%7B%22sh.iglu.builder.instance%3Dtest%22%3Atrue%7D%7D"
	)
	for _, test := range []struct {
		kind, call string
		do         func(context.Context, engine.Volumes) error
		url        string
	}{
		{"GET /volumes", "list volumes", func(ctx context.Context, v engine.Volumes) error {
			all, err := v.List(ctx)
			if all != nil {
				return fmt.Errorf("there are volumes: %v", all)
			}
			return err
		}, `Get "` + host + filter + `"`},
		{"GET /volumes/some", callStore, func(ctx context.Context, v engine.Volumes) error {
			found, err := v.Get(ctx, "some")
			if found.Name != "" {
				return fmt.Errorf("there is a volume: %v", found)
			}
			return err
		}, `Get "` + host + `/some"`},
		{"POST /volumes/create", callStore, func(ctx context.Context, v engine.Volumes) error { return v.Create(ctx, engine.Volume{Name: "some"}) },
			`Post "` + host + `/create"`},
		{"DELETE /volumes/some", "remove a volume", func(ctx context.Context, v engine.Volumes) error { return v.Remove(ctx, "some") },
			`Delete "` + host + `/some"`},
	} {
		for fault, expected := range map[fakeengine.Fault]struct {
			want string
			took time.Duration
		}{
			"500":            {failedTo(test.call, says), 0},
			fakeengine.Gone:  {stoppedAnswering(test.call), 0},
			fakeengine.Stall: {failedTo(test.call, test.url+": context deadline exceeded"), 2 * time.Minute},
		} {
			t.Run(test.kind+"/"+string(fault), func(t *testing.T) {
				bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
					f.fake.Break(callAt(test.kind, 1), fault)
					begun := time.Now()
					wantTold(t, test.do(t.Context(), f.Volumes()), expected.want)
					wantTook(t, begun, expected.took)
				})
			})
		}
	}
}

// TestRemoveUnused calls RemoveUnused with volumes and networks of the instance and of others, some of them in use.
// RemoveUnused continues after each failure.
func TestRemoveUnused(t *testing.T) {
	t.Parallel()
	const (
		volumes, networks = "GET /volumes", "GET /networks"
		endpoints         = `{"message":"error while removing network: network n1 has active endpoints"}`
		log               = ". If a setting of the builder is not the cause, its log and the engine's say more. (" + says + ")"
		notRemoved        = "The container engine failed to remove a volume: " + says + log
		notListed         = "The container engine failed to list volumes: " + says + log
		all               = "network n1, network n2, network others, volume free, volume others, volume program, volume store"
	)
	for _, test := range []struct {
		name    string
		fail    func(*fakeengine.Engine)
		removed []string
		want    string // the error
		left    string
	}{
		{"all", func(*fakeengine.Engine) {}, []string{"volume free", "volume program", "network n1", "network n2"}, "",
			"network others, volume others, volume store"},
		{"volume in use", func(e *fakeengine.Engine) { e.Hold("free") }, []string{"volume program", "network n1", "network n2"},
			"remove volume free: it is in use: Error response from daemon: remove free: volume is in use - [ID]",
			"container holder-of-free created, network others, volume free, volume others, volume store"},
		{"volume fails", func(e *fakeengine.Engine) { e.Break(callAt("DELETE /volumes/free", 1), "500") },
			[]string{"volume program", "network n1", "network n2"}, "remove volume free: " + notRemoved,
			"network others, volume free, volume others, volume store"},
		{"network in use", func(e *fakeengine.Engine) { e.Answer(callAt("DELETE /networks/.*", 1), 403, endpoints) },
			[]string{"volume free", "volume program", "network n2"},
			"remove network n1: Error response from daemon: error while removing network: network n1 has active endpoints",
			"network n1, network others, volume others, volume store"},
		{"network gone", func(e *fakeengine.Engine) { e.Break(callAt("DELETE /networks/.*", 1), "404") },
			[]string{"volume free", "volume program", "network n2"}, "",
			"network n1, network others, volume others, volume store"},
		{"everything", func(e *fakeengine.Engine) {
			e.Break(callAt("DELETE /volumes/.*", 1), "500")
			e.Break(callAt("DELETE /volumes/.*", 2), "409")
			e.Break(callAt("DELETE /networks/.*", 1), "500")
			e.Break(callAt("DELETE /networks/.*", 2), "409")
		}, nil, "remove volume free: " + notRemoved + "\nremove volume program: it is in use: " + says +
			"\nremove network n1: " + says + "\nremove network n2: " + says, all},
		{"list of volumes", func(e *fakeengine.Engine) { e.Break(callAt(volumes, 1), "500") }, []string{"network n1", "network n2"}, notListed,
			"network others, volume free, volume others, volume program, volume store"},
		{"list of networks", func(e *fakeengine.Engine) { e.Break(callAt(networks, 1), "500") }, []string{"volume free", "volume program"}, "list networks: " + says,
			"network n1, network n2, network others, volume others, volume store"},
		{"both lists", func(e *fakeengine.Engine) {
			e.Break(callAt(volumes, 1), "500")
			e.Break(callAt(networks, 1), "500")
		}, nil, notListed + "\nlist networks: " + says, all},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
				f.fake.MakeVolume("store", storeLabels(""))
				f.fake.MakeVolume("free", instanceLabel)
				f.fake.MakeVolume("program", instanceLabel)
				f.fake.MakeVolume("others", map[string]string{engine.LabelInstance: "other"})
				f.fake.MakeNetwork("n1", instanceLabel)
				f.fake.MakeNetwork("n2", instanceLabel)
				f.fake.MakeNetwork("others", map[string]string{engine.LabelInstance: "other"})
				test.fail(f.fake)
				var removed []string
				err := f.RemoveUnused(t.Context(), func(kind, name string) { removed = append(removed, kind+" "+name) })
				text := ""
				if err != nil {
					text = plain(err.Error())
				}
				wantEqual(t, "error", text, test.want)
				wantAll(t, "removed", removed, test.removed...)
				wantEqual(t, "left", f.left(), test.left)
			})
		})
	}
}

// TestRemoveUnusedStalls has the engine not answer a call on networks.
func TestRemoveUnusedStalls(t *testing.T) {
	t.Parallel()
	const host = "http://%2Frun%2Fdocker.sock/v1.41/networks"
	for call, want := range map[string]string{
		"GET /networks":       `list networks: Get "` + host + `?filters=%7B%22label%22%3A%7B%22sh.iglu.builder.instance%3Dtest%22%3Atrue%7D%7D": context deadline exceeded`,
		"DELETE /networks/.*": `remove network n1: Delete "` + host + `/ID": context deadline exceeded`,
	} {
		t.Run(call, func(t *testing.T) {
			bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
				f.fake.MakeVolume("free", instanceLabel)
				f.fake.MakeNetwork("n1", instanceLabel)
				f.fake.Break(callAt(call, 1), fakeengine.Stall)
				begun := time.Now()
				var removed []string
				err := f.RemoveUnused(t.Context(), func(kind, name string) { removed = append(removed, kind+" "+name) })
				wantTook(t, begun, 2*time.Minute)
				wantTold(t, err, want)
				wantAll(t, "removed", removed, "volume free")
				wantEqual(t, "left", f.left(), "network n1")
			})
		})
	}
}
