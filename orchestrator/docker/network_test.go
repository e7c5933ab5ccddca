package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	containertypes "github.com/docker/docker/api/types/container"
	networktypes "github.com/docker/docker/api/types/network"

	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/test/kit/fakeengine"
)

const (
	jobsNetwork = "iglu-builder-test-jobs"
	networkLock = "iglu-network-test"
)

var instanceLabel = map[string]string{engine.LabelInstance: "test"}

// networks returns the networks of a name that are on the engine, the oldest first.
func (f *fixture) networks(t *testing.T, name string) (found []networktypes.Summary) {
	t.Helper()
	all, err := f.client.NetworkList(t.Context(), networktypes.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		if n.Name == name {
			found = append(found, n)
		}
	}
	return found
}

// jobsNetwork returns the ID of the instance's network, or "" if it has none.
func (f *fixture) jobsNetwork(t *testing.T) string {
	t.Helper()
	found := f.networks(t, jobsNetwork)
	switch len(found) {
	case 0:
		return ""
	case 1:
		return found[0].ID
	}
	t.Fatalf("there are %d networks", len(found))
	return ""
}

// latestNetwork returns the network of the container that was created last.
func (f *fixture) latestNetwork() string {
	all := f.fake.Containers()
	return string(all[len(all)-1].HostConfig.NetworkMode)
}

// TestNetworkMadeOnce creates two containers. The network is created for the first.
func TestNetworkMadeOnce(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		f.fake.MakeNetwork("bridge", nil)
		f.fake.MakeNetwork("iglu-builder-testXjobs", instanceLabel)
		f.fake.MakeNetwork(jobsNetwork, map[string]string{engine.LabelInstance: "other"})
		for _, name := range []string{"one", "two"} {
			f.create(t, name)
			wantEqual(t, "network", f.latestNetwork(), f.networks(t, jobsNetwork)[1].ID)
		}
		wantAll(t, "requests", f.requests("[A-Z]+ /networks/.*"), "POST /networks/create")
		wantEqual(t, "request", f.body("POST /networks/create"), `{"Driver":"bridge","Scope":"","IPAM":null,"Internal":false,"Attachable":false,"Ingress":false,`+
			`"ConfigOnly":false,"ConfigFrom":null,"Options":{"com.docker.network.bridge.enable_icc":"false"},"Labels":{"sh.iglu.builder.instance":"test"},"Name":"iglu-builder-test-jobs","CheckDuplicate":true}`)
		wantEqual(t, "left", f.left(), "container one created, container two created, network bridge, "+
			"network iglu-builder-test-jobs, network iglu-builder-test-jobs, network iglu-builder-testXjobs, volume PROGRAM")
	})
}

// TestNetworkLock looks at the container that is the lock while the network is created.
func TestNetworkLock(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		var lock *containertypes.CreateRequest
		f.fake.At(callAt("POST /networks/create", 1), func() {
			lock = &f.fake.Containers()[0]
			wantEqual(t, "left", f.left(), "container "+networkLock+" created")
		})
		f.create(t, "one")
		if lock == nil {
			t.Fatal("the network is not made")
		}
		wantEqual(t, "network of the lock", string(lock.HostConfig.NetworkMode), "none")
		wantEqual(t, "labels of the lock", fmt.Sprint(lock.Labels), fmt.Sprint(instanceLabel))
		wantEqual(t, "image of the lock", lock.Image, fakeengine.ImageRef)
		wantEqual(t, "entrypoint of the lock", fmt.Sprint(lock.Entrypoint), "[iglu-builder]")
	})
}

// TestNetworkOfTwoBuilders has two builders of an instance make the network at once.
func TestNetworkOfTwoBuilders(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		f.fake.At(callAt("POST /networks/create", 1), func() { time.Sleep(3200 * time.Millisecond) })
		second := f.builder(t, f.options)
		begun := time.Now()
		took := make(chan time.Duration)
		go func() {
			f.create(t, "one")
			took <- time.Since(begun)
		}()
		synctest.Wait() // until it makes the network
		_, err := second.Create(t.Context(), spec("two"))
		if err != nil {
			t.Fatal(err)
		}
		wantTook(t, begun, 3500*time.Millisecond)
		wantEqual(t, "time of the first", <-took, 3200*time.Millisecond)
		id := f.jobsNetwork(t)
		wantEqual(t, "network", f.latestNetwork(), id)
		wantEqual(t, "left", f.left(), "container one created, container two created, network iglu-builder-test-jobs, volume PROGRAM")
		for _, d := range []*Engine{f.Engine, second} {
			if addr := netip.MustParseAddr("172.26.0.7"); !f.podman && !d.IsOfJobs(addr, netip.Addr{}) {
				t.Error("a builder does not know the network's addresses")
			}
		}
	})
}

// TestStaleNetworkLock creates the lock of a builder that was killed. It is broken after 20 s, unless the context ends
// earlier.
func TestStaleNetworkLock(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		f.fake.MakeContainer(networkLock, instanceLabel)
		begun := time.Now()
		f.create(t, "one")
		wantTook(t, begun, 21*time.Second)
		if f.jobsNetwork(t) == "" {
			t.Error("there is no network")
		}
		wantEqual(t, "left", f.left(), "container one created, network iglu-builder-test-jobs, volume PROGRAM")
	})
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) { // one that cannot be broken is tried again
		stale := f.fake.MakeContainer(networkLock, instanceLabel)
		f.fake.Break(callAt("DELETE /containers/"+stale, 1), "500")
		begun := time.Now()
		f.create(t, "one")
		wantTook(t, begun, 42*time.Second)
		wantAll(t, "removals", f.requests("DELETE /containers/"+stale+".*"),
			"DELETE /containers/ID?force=1&v=1", "DELETE /containers/ID?force=1&v=1")
	})
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		f.fake.MakeContainer(networkLock, instanceLabel)
		ctx, cancel := context.WithTimeout(t.Context(), 1200*time.Millisecond)
		defer cancel()
		begun := time.Now()
		id, err := f.network.ensure(ctx, nameLock{f.Engine, networkLock, fakeengine.ImageRef})
		wantTook(t, begun, 1200*time.Millisecond)
		if id != "" || err != context.DeadlineExceeded {
			t.Errorf("got %q, %v", id, err)
		}
		wantEqual(t, "looks", len(f.requests(`POST /containers/create\?name=`+networkLock)), 3)
		wantEqual(t, "looks at the networks", len(f.requests(`GET /networks\?.*`)), 1)
	})
}

// TestTwinNetworks uses an engine with three networks of the name, created by builders of an older version. Only the
// oldest is kept.
func TestTwinNetworks(t *testing.T) {
	t.Parallel()
	const first = "DELETE /networks/.*"
	for _, test := range []struct {
		name string
		fail func(e *fakeengine.Engine)
		want string
		left int
	}{
		{"removed", func(*fakeengine.Engine) {}, "", 1},
		{"removed by another builder", func(e *fakeengine.Engine) { e.Answer(callAt(first, 1), 404, `{"message":"network not found"}`) }, "", 2},
		{"in use", func(e *fakeengine.Engine) {
			e.Answer(callAt(first, 1), 403, `{"message":"error while removing network: network iglu-builder-test-jobs has active endpoints"}`)
		}, failedTo(callNetwork, "Error response from daemon: error while removing network: network iglu-builder-test-jobs has active endpoints"), 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			both(t, nil, func(t *testing.T, f *fixture) {
				var oldest string
				for i := range 3 {
					time.Sleep(time.Second)
					if id := f.fake.MakeNetwork(jobsNetwork, instanceLabel); i == 0 {
						oldest = id
					}
				}
				test.fail(f.fake)
				_, err := f.Create(t.Context(), spec("one"))
				wantTold(t, err, test.want)
				found := f.networks(t, jobsNetwork)
				wantEqual(t, "networks left", len(found), test.left)
				if found[0].ID != oldest || err == nil && f.latestNetwork() != oldest {
					t.Error("it is not the oldest that stays and is used")
				}
				if locked := strings.Contains(f.left(), networkLock); locked {
					t.Errorf("left: %s", f.left())
				}
				if addr := netip.MustParseAddr(map[bool]string{false: "172.26.0.7", true: "10.89.0.7"}[f.podman]); f.IsOfJobs(addr, netip.Addr{}) != (err == nil) {
					t.Error("the network's addresses are not known")
				}
			})
		})
	}
}

// TestNetworkOrder has an engine list the networks in another order than the oldest first.
func TestNetworkOrder(t *testing.T) {
	t.Parallel()
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		const network = `{"Id":"%d","Name":"` + jobsNetwork + `","Created":"2026-01-0%dT00:00:00Z"}`
		f.fake.Answer(callAt("GET /networks", 1), 200, fmt.Sprintf("["+network+","+network+","+network+"]", 3, 3, 1, 1, 2, 2))
		found, err := f.network.find(t.Context())
		var order []string
		for _, n := range found {
			order = append(order, n.ID)
		}
		if err != nil {
			t.Error(err)
		}
		wantAll(t, "order", order, "1", "2", "3")
	})
}

// TestNetworkMadeMeanwhile has another builder make the network just before the lock is taken.
func TestNetworkMadeMeanwhile(t *testing.T) {
	t.Parallel()
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		var id string
		f.fake.At(callAt("POST /containers/create", 1), func() { id = f.fake.MakeNetwork(jobsNetwork, instanceLabel) })
		f.create(t, "one")
		wantEqual(t, "network", f.latestNetwork(), id)
		wantAll(t, "requests", f.requests("POST /networks/create"))
		if !f.IsOfJobs(netip.MustParseAddr("172.26.0.7"), netip.Addr{}) {
			t.Error("the network's addresses are not known")
		}
	})
}

// TestNetworkFails lets the calls fail that create the network.
func TestNetworkFails(t *testing.T) {
	t.Parallel()
	const (
		list, creation = "GET /networks", "POST /networks/create"
		gone           = `{"message":"netlink: no such network interface"}`
		usedUp         = "The container engine has no addresses left for the jobs' network. " +
			"Remove networks that nothing uses (docker network prune), give the engine more addresses (default-address-pools), " +
			"or set IGLU_JOB_NETWORK to a network that is there. [provide the jobs' network]"
		goneError = "Error response from daemon: netlink: no such network interface"
	)
	for _, test := range []struct {
		name string
		fail func(e *fakeengine.Engine)
		want string
		made int // how often that was asked for
	}{
		{"first look", func(e *fakeengine.Engine) { e.Break(callAt(list, 1), "500") }, failedTo(callNetwork, says), 0},
		{"lock", func(e *fakeengine.Engine) { e.Break(callAt("POST /containers/create", 1), "500") }, failedTo(callNetwork, says), 0},
		{"look under the lock", func(e *fakeengine.Engine) { e.Break(callAt(list, 2), "500") }, failedTo(callNetwork, says), 0},
		{"making it", func(e *fakeengine.Engine) { e.Break(callAt(creation, 1), "500") }, failedTo(callNetwork, says), 1},
		{"making it while interfaces vanish", func(e *fakeengine.Engine) { answers(e, creation, 4, gone) }, "", 5},
		{"making it while interfaces vanish for ever", func(e *fakeengine.Engine) { answers(e, creation, 6, gone) }, failedTo(callNetwork, goneError), 5},
		{"making it while one vanishes, and for another reason", func(e *fakeengine.Engine) {
			answers(e, creation, 1, gone)
			e.Break(callAt(creation, 2), "500")
		}, failedTo(callNetwork, says), 2},
		{"no addresses, Docker 20.10", func(e *fakeengine.Engine) {
			answers(e, creation, 1, `{"message":"could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"}`)
		}, usedUp, 1},
		{"no addresses, Docker 28", func(e *fakeengine.Engine) {
			answers(e, creation, 1, `{"message":"all predefined address pools have been fully subnetted"}`)
		}, usedUp, 1},
		{"last look", func(e *fakeengine.Engine) { e.Break(callAt(list, 3), "500") }, failedTo(callNetwork, says), 1},
		{"not there", func(e *fakeengine.Engine) { e.Answer(callAt(list, 3), 200, "[]") },
			failedTo(callNetwork, "the network does not exist although it has just been created"), 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, fakeengine.Podman, nil, func(t *testing.T, f *fixture) {
				test.fail(f.fake)
				_, err := f.Create(t.Context(), spec("one"))
				wantTold(t, err, test.want)
				wantEqual(t, "requests", len(f.requests(creation)), test.made)
				if left := f.left(); strings.Contains(left, networkLock) {
					t.Errorf("left: %s", left)
				}
				f.create(t, "two")
			})
		})
	}
}

// answers makes the first calls of a kind fail with an answer.
func answers(e *fakeengine.Engine, kind string, times int, answer string) {
	for n := range times {
		e.Answer(callAt(kind, n+1), 500, answer)
	}
}

// TestNetworkThatIsSet connects jobs to a network that the builder has not created.
func TestNetworkThatIsSet(t *testing.T) {
	t.Parallel()
	both(t, func(o *Options) { o.Network = "own" }, func(t *testing.T, f *fixture) {
		_, err := f.Create(t.Context(), spec("one"))
		wantTold(t, err, "The network own is not on the container engine. "+
			"Make it there, or set IGLU_JOB_NETWORK to one that is, or to nothing for one of the builder's own.")
		f.fake.MakeNetwork("own", nil)
		f.create(t, "one")
		wantEqual(t, "network", f.latestNetwork(), "own")
		wantEqual(t, "left", f.left(), "container one created, network own, volume PROGRAM")
		f.fake.Break(callAt("GET /networks/own", 1), "500")
		_, err = f.Create(t.Context(), spec("two"))
		wantTold(t, err, failedTo(callNetwork, says))
	})
	both(t, func(o *Options) { o.Network = "none" }, func(t *testing.T, f *fixture) {
		f.create(t, "one")
		wantEqual(t, "network", f.latestNetwork(), "none")
		wantEqual(t, "left", f.left(), "container one created, volume PROGRAM")
		wantAll(t, "requests", f.requests("[A-Z]+ /networks.*"))
	})
}

// TestOffline creates a container without a network: no network is searched or created.
func TestOffline(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"", "own"} {
		bubble(t, fakeengine.Docker, func(o *Options) { o.Network = network }, func(t *testing.T, f *fixture) {
			s := spec("one")
			s.Offline = true
			_, err := f.Create(t.Context(), s)
			wantTold(t, err, "")
			wantEqual(t, "network", f.latestNetwork(), "none")
			wantEqual(t, "left", f.left(), "container one created, volume PROGRAM")
			wantAll(t, "requests", f.requests("[A-Z]+ /networks.*"))
		})
	}
}

// TestIsOfJobs checks addresses of jobs and other addresses, for the networks of the recorded engines, and for a network
// with two subnets.
func TestIsOfJobs(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, f *fixture, want map[string]bool) {
		t.Helper()
		for addr, of := range want {
			if got := f.IsOfJobs(netip.MustParseAddr(addr), netip.Addr{}); got != of {
				t.Errorf("%s: %t, want %t", addr, got, of)
			}
		}
	}
	both(t, nil, func(t *testing.T, f *fixture) {
		check(t, f, map[string]bool{"172.26.0.7": false, "10.89.0.7": false}) // not known yet
		f.create(t, "one")
		check(t, f, map[string]bool{
			"172.26.0.7": !f.podman, "172.26.255.255": !f.podman, "::ffff:172.26.0.7": !f.podman, "172.27.0.1": false,
			"10.89.0.7": f.podman, "::ffff:10.89.0.7": f.podman, "10.89.1.0": false, "127.0.0.1": false, "::1": false,
		})
	})
	bubble(t, fakeengine.Docker, func(o *Options) { o.Network = "own" }, func(t *testing.T, f *fixture) {
		f.fake.Answer(callAt("GET /networks/own", 1), 200, `{"IPAM":{"Config":[{"Subnet":"192.168.7.9/24"},{"Subnet":""},{"Subnet":"fd00::/64"}]}}`)
		f.create(t, "one")
		check(t, f, map[string]bool{"192.168.7.1": true, "192.168.8.1": false, "fd00::5": true, "fd00:1::5": false})
	})
}

// TestBridgeElsewhere checks the addresses of clients of a server whose engine is reached over TCP. The builder's own bridge
// on another machine often has the same addresses as a network that the server is on with its clients. A network that is
// set counts, because it may be that of the server's container.
func TestBridgeElsewhere(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, host, network string
		server              func(bridge netip.Addr) netip.Addr // where the client has connected
		want                bool
	}{
		{"the server is on a network of the same addresses", "tcp://node-1:2376", "", func(bridge netip.Addr) netip.Addr { return bridge.Next().Next() }, false},
		{"the server has the bridge", "tcp://node-1:2376", "", func(bridge netip.Addr) netip.Addr { return bridge }, true},
		{"the server is on another network", "tcp://socket-proxy:2375", "", func(netip.Addr) netip.Addr { return netip.MustParseAddr("192.0.2.1") }, true},
		{"the server's address is not known", "tcp://node-1:2376", "", func(netip.Addr) netip.Addr { return netip.Addr{} }, true},
		{"the network is set", "tcp://node-1:2376", "own", func(bridge netip.Addr) netip.Addr { return bridge.Next().Next() }, true},
		{"the engine is here", "unix:///run/docker.sock", "", func(bridge netip.Addr) netip.Addr { return bridge.Next().Next() }, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			both(t, func(o *Options) { o.Host, o.Network = test.host, test.network }, func(t *testing.T, f *fixture) {
				f.fake.MakeNetwork("own", nil)
				bridge := netip.MustParseAddr(map[bool]string{false: "172.26.0.1", true: "10.89.0.1"}[f.podman])
				f.create(t, "one")
				if got := f.IsOfJobs(bridge.Next(), test.server(bridge)); got != test.want {
					t.Errorf("it is a job: %t, want %t", got, test.want)
				}
			})
		})
	}
}

// TestAddressesOfOthers has another builder of the instance create the network and run a job: after Ready, its address is one
// of jobs. Ready does not depend on that.
func TestAddressesOfOthers(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		addr := netip.MustParseAddr(map[bool]string{false: "172.26.0.7", true: "10.89.0.7"}[f.podman])
		f.fake.Break(callAt("GET /networks", 1), "500")
		if err := f.Ready(t.Context()); err != nil || f.IsOfJobs(addr, netip.Addr{}) {
			t.Errorf("while the networks cannot be listed: %v, %t", err, f.IsOfJobs(addr, netip.Addr{}))
		}
		f.fake.Return()
		f.fake.MakeNetwork(jobsNetwork, instanceLabel)
		if err := f.Ready(t.Context()); err != nil || !f.IsOfJobs(addr, netip.Addr{}) {
			t.Errorf("when another builder has created it: %v, %t", err, f.IsOfJobs(addr, netip.Addr{}))
		}
	})
}

// TestNetworkPruned removes the network while no job runs, as 'docker network prune' does. After Ready, its addresses are not
// those of jobs any more: the engine may give them to a network of clients. That is also so if a job has made it again.
func TestNetworkPruned(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		addr := netip.MustParseAddr(map[bool]string{false: "172.26.0.7", true: "10.89.0.7"}[f.podman])
		f.create(t, "one")
		network := f.latestNetwork()
		wantTold(t, f.Remove(t.Context(), "one"), "")
		if err := f.client.NetworkRemove(t.Context(), network); err != nil {
			t.Fatal(err)
		}
		if err := f.Ready(t.Context()); err != nil || f.IsOfJobs(addr, netip.Addr{}) {
			t.Errorf("without the network: %v, of jobs: %t", err, f.IsOfJobs(addr, netip.Addr{}))
		}
		f.create(t, "two")
		if err := f.Ready(t.Context()); err != nil || !f.IsOfJobs(addr, netip.Addr{}) {
			t.Errorf("with a new one: %v, of jobs: %t", err, f.IsOfJobs(addr, netip.Addr{}))
		}
	})
}

// TestAddressesStay lets the engine fail to list its networks while a job runs: IsOfJobs still knows the job's address.
func TestAddressesStay(t *testing.T) {
	t.Parallel()
	for network, call := range map[string]string{"": "GET /networks", "own": "GET /networks/own"} {
		for fault, want := range map[fakeengine.Fault]string{
			"500": failedTo(callNetwork, says), fakeengine.Gone: stoppedAnswering(callNetwork),
			fakeengine.Reset: "", // the question is repeated on another connection
			fakeengine.Stall: failedTo(callNetwork, "context deadline exceeded"),
		} {
			t.Run(call+"/"+string(fault), func(t *testing.T) {
				bubble(t, fakeengine.Docker, func(o *Options) { o.Network = network }, func(t *testing.T, f *fixture) {
					f.fake.MakeNetwork("own", nil)
					f.create(t, "one")
					f.fake.Break(callAt(call, 1), fault)
					_, err := f.Create(t.Context(), spec("two"))
					wantTold(t, withoutURL(err), want)
					if !f.IsOfJobs(netip.MustParseAddr("172.26.0.7"), netip.Addr{}) {
						t.Error("the address of the first is not one of jobs any more")
					}
				})
			})
		}
	}
}

// withoutURL leaves out of what a failure says which request it was.
func withoutURL(err error) error {
	if failure, ok := errors.AsType[*engine.Failure](err); ok {
		failure.What = requestURL.ReplaceAllString(failure.What, "")
	}
	return err
}

var requestURL = regexp.MustCompile(`[A-Z][a-z]+ "http://\S*": `)
