//go:build integration

package push

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/devcache"
	"iglu.sh/builder/test/kit/fixture"
)

// TestPreflight runs jobs that a cache refuses, or whose settings do not fit the cache. They end before the build, with
// a line that says what to do.
func TestPreflight(t *testing.T) { fixture.OnEngines(t, preflight) }

func preflight(t *testing.T, e *fixture.Engine) {
	_, otherKey, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	lookUp := func(f devcache.Fault) func(*fixture.BinaryCache, *fixture.Job) {
		return func(c *fixture.BinaryCache, _ *fixture.Job) { c.Misbehave(devcache.On("GET", fixture.CacheLookUp, f)) }
	}
	const config, unavailable = 78, 69
	tests := []struct {
		name   string
		change func(*fixture.BinaryCache, *fixture.Job)
		code   int
		line   string
	}{
		{"no such host", func(_ *fixture.BinaryCache, j *fixture.Job) {
			j.BuildOptions.Cachix.Target = "http://no-such-host.invalid/default"
		},
			unavailable, "the cache cannot be reached"},
		{"no such cache", func(_ *fixture.BinaryCache, j *fixture.Job) { j.BuildOptions.Cachix.Target += "-other" },
			config, "check the name at the end of buildOptions.cachix.target"},
		{"another key", func(_ *fixture.BinaryCache, j *fixture.Job) { j.BuildOptions.Cachix.APIKey = "not-the-api-key" },
			config, "the cache does not accept the API key (HTTP 403)"},
		{"401", lookUp(devcache.Answer(401, "who are you")), config, "check buildOptions.cachix.apiKey"},
		{"no public key", func(c *fixture.BinaryCache, j *fixture.Job) { j.BuildOptions.Cachix.Target = fixture.EmptyCache(t).URL },
			config, "the cache has no public signing key yet; register one"},
		{"no cachix", lookUp(devcache.Answer(200, "<html>It works!</html>")), config, "no answer of a cachix-compatible cache"},
		{"signing key too short", func(_ *fixture.BinaryCache, j *fixture.Job) {
			j.BuildOptions.Cachix.SigningKey = "c2hvcnQgYW5kIHNlY3JldA=="
		},
			config, "the signing key is not the base64 of 64 bytes"},
		{"signing key of another cache", func(_ *fixture.BinaryCache, j *fixture.Job) {
			j.BuildOptions.Cachix.SigningKey = base64.StdEncoding.EncodeToString(otherKey)
		}, config, "give the private half of " + fixture.PublicKey(t)},
	}
	srv := e.Server(t, func(*server.Settings) {})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := fixture.NewCache(t)
			j := c.Pushing(fixture.SmallJob())
			test.change(c, &j)
			got := fixture.Do(t, srv, j)
			fixture.WantExit(t, got, test.code)
			fixture.WantLine(t, got, "iglu: nothing could be pushed, so nothing is built: ")
			fixture.WantLine(t, got, test.line)
			fixture.WantReason(t, got, "Nothing was built, because nothing could have been pushed.")
			if len(got.Lines) != 4 || strings.Contains(strings.Join(got.Lines, "\n"), "c2hvcnQ") {
				t.Errorf("lines: %q", got.Lines)
			}
		})
	}
}

// TestWarnings uses a cache whose answers are incomplete. The job logs warnings and continues.
func TestWarnings(t *testing.T) { fixture.OnEngines(t, warnings) }

func warnings(t *testing.T, e *fixture.Engine) {
	tests := []struct {
		name  string
		fault devcache.Fault
		line  string
	}{
		{"no real keys", devcache.On("GET", fixture.CacheLookUp, devcache.Replace(fixture.PublicKey(t), "null")), "warning: the cache does not publish its public keys"},
		{"may only read, it says", devcache.On("GET", fixture.CacheLookUp, devcache.Replace(`"permission":"Write"`, `"permission":"Read"`)),
			"the cache says that the API key may only read"},
		{"not readable", devcache.On("GET", "/default/*", devcache.Answer(200, "OK")), "warning: the cache cannot be read from here: what is pushed will not be checked"},
	}
	srv := e.Server(t, func(*server.Settings) {})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := fixture.NewCache(t)
			c.Misbehave(test.fault)
			got := fixture.Do(t, srv, c.Pushing(fixture.SmallJob()))
			fixture.WantExit(t, got, 0)
			fixture.WantLine(t, got, test.line)
			fixture.WantNames(t, c, fixture.BothNames)
		})
	}
}

// TestHalfPushed uses a cache that refuses one of several paths. The others are pushed, except those that refer to it,
// so that every path in the cache has its references.
func TestHalfPushed(t *testing.T) { fixture.OnEngines(t, halfPushed) }

func halfPushed(t *testing.T, e *fixture.Engine) {
	c := fixture.NewCache(t)
	c.Misbehave(devcache.On("POST", fixture.UploadEnd, refuseNamed("middle")))
	got := fixture.Do(t, e.Server(t, func(*server.Settings) {}), c.Pushing(fixture.Command(`nix-build --no-out-link -E '`+
		`let d = name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; };`+
		` first = d "first" "echo > $out"; middle = d "middle" "echo ${first} > $out"; beside = d "beside" "echo ${first} > $out";`+
		` in d "top" "echo ${middle} ${beside} > $out"'`)))
	fixture.WantUnpushed(t, got, "2 of 4 paths could not be pushed: middle: complete the upload of middle to "+c.URL+": the cache refuses it (HTTP 400): not that one")
	fixture.WantNames(t, c, []string{"beside", "first"})
}

// refuseNamed returns a fault that refuses to announce the path with a name.
func refuseNamed(name string) devcache.Fault {
	return devcache.WhereBody(func(body string) bool { return strings.Contains(body, `"cStoreSuffix":"`+name+`"`) },
		devcache.Answer(400, `not that one`))
}

// TestFailedBuildPushes runs three builds, one of which fails. The finished ones are pushed, and the exit code is that
// of the build.
func TestFailedBuildPushes(t *testing.T) { fixture.OnEngines(t, failedBuildPushes) }

func failedBuildPushes(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(*server.Settings) {})
	expression := `let d = name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; };` +
		` needed = d "needed" "echo > $out"; in [ (d "good" "echo > $out") (d "bad" "echo ${needed}; exit 1") ]`
	for _, broken := range []bool{false, true} {
		c := fixture.NewCache(t)
		if broken {
			c.Misbehave(devcache.On("POST", fixture.UploadBegin, devcache.Answer(403, "")))
		}
		j := c.Pushing(fixture.Command("nix-build --no-out-link -E '" + expression + "'"))
		j.BuildOptions.KeepGoing = true
		got := fixture.Do(t, s, j)
		fixture.WantExit(t, got, 1) // of root, 100
		if broken {
			fixture.WantLine(t, got, "iglu: push: NOT COMPLETE: ")
		} else {
			fixture.WantNames(t, c, []string{"good", "needed"})
		}
	}
}

// TestExitCode75 runs a command that itself exits with 75, the code for an incomplete push.
func TestExitCode75(t *testing.T) { fixture.OnEngines(t, exitCode75) }

func exitCode75(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(*server.Settings) {})
	fixture.WantExit(t, fixture.Do(t, s, fixture.NewCache(t).Pushing(fixture.Command("sh -c 'exit 75'"))), 75)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("sh -c 'exit 75'")), 75)
}
