package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/test/kit/devcache"
)

// Calls of the protocol, as patterns of their paths.
const (
	cacheLookUp   = "/api/v1/cache/*"
	cacheMissing  = "/api/v1/cache/*/narinfo"
	uploadBegin   = "/api/v1/cache/*/multipart-nar"
	uploadPart    = "/api/v1/cache/*/multipart-nar/*"
	uploadEnd     = "/api/v1/cache/*/multipart-nar/*/complete"
	uploadAbort   = "/api/v1/cache/*/multipart-nar/*/abort"
	uploadedPart  = "/upload/*/*/*"
	cacheContents = "/default/nix-cache-info"
	cacheNarInfo  = "/default/*.narinfo"
)

// smallJob builds two paths, one of which refers to the other. Both are small.
func smallJob() job {
	return command("nix-build --no-out-link -E '" + strings.ReplaceAll(`let first = DERIVATION "first" "echo 1 > $out";
		in DERIVATION "second" "echo ${first} > $out"`, "DERIVATION",
		`(name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; })`) + "'")
}

var bothNames = []string{"first", "second"}

// TestPreflight has caches refuse a job, or jobs not fit a cache. It ends before
// anything is built, with a line that says what to do.
func TestPreflight(t *testing.T) { onEngines(t, preflight) }

func preflight(t *testing.T, e *site) {
	_, otherKey, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	lookUp := func(f devcache.Fault) func(*binaryCache, *job) {
		return func(c *binaryCache, _ *job) { c.Misbehave(devcache.On("GET", cacheLookUp, f)) }
	}
	const config, unavailable = 78, 69
	tests := []struct {
		name   string
		change func(*binaryCache, *job)
		code   int
		line   string
	}{
		{"nobody listens", func(_ *binaryCache, j *job) { j.BuildOptions.Cachix.Target = "http://" + freeAddress(t) + "/default" },
			unavailable, "the cache cannot be reached: dial tcp"},
		{"no such host", func(_ *binaryCache, j *job) { j.BuildOptions.Cachix.Target = "http://no-such-host.invalid/default" },
			unavailable, "the cache cannot be reached"},
		{"never answers", lookUp(devcache.Hang()), unavailable, "has not answered within 15s"},
		{"no such cache", func(_ *binaryCache, j *job) { j.BuildOptions.Cachix.Target += "-other" },
			config, "check the name at the end of buildOptions.cachix.target"},
		{"another key", func(_ *binaryCache, j *job) { j.BuildOptions.Cachix.APIKey = "not-the-api-key" },
			config, "the cache does not accept the API key (HTTP 403)"},
		{"401", lookUp(devcache.Answer(401, "who are you")), config, "check buildOptions.cachix.apiKey"},
		{"no public key", func(c *binaryCache, j *job) { j.BuildOptions.Cachix.Target = emptyCache(t).url },
			config, "the cache has no public signing key yet; register one"},
		{"may only read", lookUp(devcache.Replace(`"permission":"Write"`, `"permission":"Read"`)), config, "may only read"},
		{"no cachix", lookUp(devcache.Answer(200, "<html>It works!</html>")), config, "no answer of a cachix-compatible cache"},
		{"500 always", lookUp(devcache.Answer(500, "oh")), unavailable, "the cache fails (HTTP 500): oh"},
		{"signing key too short", func(_ *binaryCache, j *job) { j.BuildOptions.Cachix.SigningKey = "c2hvcnQgYW5kIHNlY3JldA==" },
			config, "the signing key is not the base64 of 64 bytes"},
		{"signing key of another cache", func(_ *binaryCache, j *job) {
			j.BuildOptions.Cachix.SigningKey = base64.StdEncoding.EncodeToString(otherKey)
		}, config, "give the private half of " + publicKey(t)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newCache(t)
			j := c.pushing(smallJob())
			test.change(c, &j)
			got := do(t, e.server(t, func(*settings) {}), j)
			wantExit(t, got, test.code)
			wantLine(t, got, "iglu: nothing could be pushed, so nothing is built: ")
			wantLine(t, got, test.line)
			if len(got.lines) != 2 || strings.Contains(got.lines[1], "c2hvcnQ") {
				t.Errorf("lines: %q", got.lines)
			}
		})
	}
}

// freeAddress is one where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// TestWarnings has a cache not say enough: the job goes on.
func TestWarnings(t *testing.T) { onEngines(t, warnings) }

func warnings(t *testing.T, e *site) {
	tests := []struct {
		name  string
		fault devcache.Fault
		line  string
	}{
		{"no real keys", devcache.On("GET", cacheLookUp, devcache.Replace(publicKey(t), "null")), "the cache does not publish its public keys"},
		{"not readable", devcache.On("GET", "/default/*", devcache.Answer(200, "OK")), "what is pushed will not be checked"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newCache(t)
			c.Misbehave(test.fault)
			got := do(t, e.server(t, func(*settings) {}), c.pushing(smallJob()))
			wantExit(t, got, 0)
			wantLine(t, got, "iglu: warning: ")
			wantLine(t, got, test.line)
			wantNames(t, c, bothNames)
		})
	}
}

// TestPushFaults has the cache fail at each step of a push. Either the client gets
// over it, or the job says that the build succeeded and its push did not; then nothing
// is announced of what failed.
func TestPushFaults(t *testing.T) { onEngines(t, pushFaults) }

func pushFaults(t *testing.T, e *site) {
	once := func(f devcache.Fault) devcache.Fault { return devcache.Times(1, f) }
	elsewhere := "http://" + freeAddress(t)
	tests := []struct {
		name  string
		fault devcache.Fault
		why   string // nothing: the push succeeds
	}{
		{"401", devcache.On("POST", uploadBegin, devcache.Answer(401, "")), "the cache does not accept the API key (HTTP 401)"},
		{"403", devcache.On("POST", uploadBegin, devcache.Answer(403, "")), "the cache does not accept the API key (HTTP 403)"},
		{"404", devcache.On("POST", uploadBegin, devcache.Answer(404, "")), "the cache refuses it (HTTP 404)"},
		{"429 with Retry-After", devcache.On("POST", uploadEnd, once(devcache.Answer(429, "", "Retry-After", "1"))), ""},
		{"429 always", devcache.On("POST", uploadBegin, devcache.Answer(429, "")), "the cache asks to come back later (HTTP 429)"},
		{"500 once", devcache.On("POST", uploadPart, once(devcache.Answer(500, ""))), ""},
		{"500 always", devcache.On("POST", uploadEnd, devcache.Answer(500, "")), "the cache fails (HTTP 500)"},
		{"500 when asked what is missing", devcache.On("POST", cacheMissing, devcache.Answer(500, "")), "what it yields could not be pushed: ask what is missing in"},
		{"500 once when asked what is missing", devcache.On("POST", cacheMissing, once(devcache.Answer(500, ""))), ""},
		{"no ETag", devcache.On("PUT", uploadedPart, devcache.WithoutHeader("ETag")), "it does not confirm a part with an ETag"},
		{"a part breaks off", devcache.On("PUT", uploadedPart, once(devcache.BreakOff(10))), ""},
		{"parts always break off", devcache.On("PUT", uploadedPart, devcache.BreakOff(10)), "the cache cannot be reached"},
		{"unknown route answers 200", devcache.On("POST", uploadBegin, devcache.Answer(200, "OK")), "that is no answer of a cachix-compatible cache"},
		{"upload URL elsewhere", devcache.On("POST", uploadPart, devcache.Edit(func(http.Header, []byte) []byte {
			return []byte(`{"uploadUrl":"` + elsewhere + `/upload?X-Amz-Credential=` + apiKey + `"}`)
		})), "the cache cannot be reached: dial tcp"},
		{"another NarHash in the narinfo", devcache.On("GET", cacheNarInfo,
			devcache.ReplaceField("NarHash", "sha256:0000000000000000000000000000000000000000000000000000")), "the cache does not show what was pushed"},
		{"signed by nobody", devcache.On("GET", cacheNarInfo, devcache.ReplaceField("Sig", "default:null")), "none of its 1 signatures is the one that was pushed"},
		{"narinfo not there at first", devcache.On("GET", cacheNarInfo, once(devcache.Answer(404, ""))), ""},
	}
	for _, test := range tests {
		if e.isPodman() && !strings.HasPrefix(test.name, "500") {
			continue // an engine has no part in what a cache answers
		}
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newCache(t)
			// An abort never answers, as with Iglu Cache.
			hang := devcache.On("POST", uploadAbort, devcache.Hang())
			c.Misbehave(test.fault, hang)
			server := e.server(t, func(*settings) {})
			got := do(t, server, c.pushing(smallJob()))
			if test.why == "" {
				wantExit(t, got, 0)
				wantTotal(t, got, 2, 0, 0)
				wantNames(t, c, bothNames)
				return
			}
			wantUnpushed(t, got, test.why)
			wantLine(t, got, "iglu: push: NOT COMPLETE: ")

			c.Misbehave()
			again := do(t, server, c.pushing(smallJob()))
			wantExit(t, again, 0)
			wantNames(t, c, bothNames)
		})
	}
}

func wantNames(t *testing.T, c *binaryCache, want []string) {
	t.Helper()
	if got := c.names(); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the cache has %q, want %q", got, want)
	}
}

// TestHalfPushed has the cache refuse one path of several: the others stay, but for
// those that refer to it, so that what the cache announces is whole.
func TestHalfPushed(t *testing.T) { onEngines(t, halfPushed) }

func halfPushed(t *testing.T, e *site) {
	c := newCache(t)
	c.Misbehave(devcache.On("POST", uploadEnd, refuseNamed("middle")))
	got := do(t, e.server(t, func(*settings) {}), c.pushing(command(`nix-build --no-out-link -E '`+
		`let d = name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; };`+
		` first = d "first" "echo > $out"; middle = d "middle" "echo ${first} > $out"; beside = d "beside" "echo ${first} > $out";`+
		` in d "top" "echo ${middle} ${beside} > $out"'`)))
	wantUnpushed(t, got, "2 of 4 paths could not be pushed: middle: complete the upload of middle to "+c.url+": the cache refuses it (HTTP 400): not that one")
	wantNames(t, c, []string{"beside", "first"})
}

// refuseNamed refuses to announce the path of a name.
func refuseNamed(name string) devcache.Fault {
	return devcache.WhereBody(func(body string) bool { return strings.Contains(body, `"cStoreSuffix":"`+name+`"`) },
		devcache.Answer(400, `not that one`))
}

// TestFailedBuildPushes has one of three builds fail: what was finished is pushed, and the
// exit code is the build's.
func TestFailedBuildPushes(t *testing.T) { onEngines(t, failedBuildPushes) }

func failedBuildPushes(t *testing.T, e *site) {
	s := e.server(t, func(*settings) {})
	expression := `let d = name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; };` +
		` needed = d "needed" "echo > $out"; in [ (d "good" "echo > $out") (d "bad" "echo ${needed}; exit 1") ]`
	for _, broken := range []bool{false, true} {
		c := newCache(t)
		if broken {
			c.Misbehave(devcache.On("POST", uploadBegin, devcache.Answer(403, "")))
		}
		j := c.pushing(command("nix-build --no-out-link -E '" + expression + "'"))
		j.BuildOptions.KeepGoing = true
		got := do(t, s, j)
		wantExit(t, got, 100)
		if broken {
			wantLine(t, got, "iglu: push: NOT COMPLETE: ")
		} else {
			wantNames(t, c, []string{"good", "needed"})
		}
	}
}

// TestExitCode75 has a command itself end with the code that stands for a push that
// is not complete.
func TestExitCode75(t *testing.T) { onEngines(t, exitCode75) }

func exitCode75(t *testing.T, e *site) {
	s := e.server(t, func(s *settings) { s.jobUser = orchestrator.UserRoot })
	wantExit(t, do(t, s, newCache(t).pushing(command("sh -c 'exit 75'"))), 75)
	wantExit(t, do(t, s, command("sh -c 'exit 75'")), 75)
	// A job that says so itself speaks of no one but itself.
	got := do(t, s, command(`sh -c 'printf "%s\377\n" "secret" > /iglu-unpushed; exit 75'`))
	wantUnpushed(t, got, "secret\ufffd")
	wantExit(t, do(t, s, command(`sh -c 'ln -s /etc/passwd /iglu-unpushed; exit 75'`)), 75)
	wantExit(t, do(t, s, command(`sh -c 'mkdir /iglu-unpushed; exit 75'`)), 75)
}

// TestClientLeavesPush has the client leave while a push hangs: the place is free soon.
func TestClientLeavesPush(t *testing.T) { onEngines(t, clientLeavesPush) }

func clientLeavesPush(t *testing.T, e *site) {
	s := e.server(t, func(*settings) {})
	cache := newCache(t)
	cache.Misbehave(devcache.On("POST", uploadBegin, devcache.Hang()))
	c := connect(t, s)
	c.send(jsonOf(t, cache.pushing(smallJob())))
	c.waitFor("/nix/store/")
	time.Sleep(time.Second) // for the push to begin
	c.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(time.Second))
	c.conn.Close()
	wantFree(t, s)
}
