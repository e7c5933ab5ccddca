package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/devcache"
)

// The tests speak the document's form. A client of today's writes its jobs in that, and
// reads what is sent in it as the document would have it: its words are checked on the way.

// inForms runs a test in each form of the protocol.
func inForms(t *testing.T, test func(t *testing.T, form schemas.Form)) {
	t.Run("document", func(t *testing.T) { test(t, schemas.Document) })
	t.Run("stack", func(t *testing.T) { test(t, schemas.Stack) })
}

// connectIn is connect for a client that speaks a form.
func connectIn(t *testing.T, form schemas.Form, s *server) *client {
	t.Helper()
	c := connect(t, s)
	c.form = form
	return c
}

// sendJob sends a job in the client's form.
func (c *client) sendJob(j job) {
	c.t.Helper()
	c.send(jobText(c.t, c.form, j))
}

// doIn is do in a form.
func doIn(t *testing.T, form schemas.Form, s *server, j job) result {
	t.Helper()
	c := connectIn(t, form, s)
	c.sendJob(j)
	return c.finish()
}

func jobText(t *testing.T, form schemas.Form, j job) string {
	t.Helper()
	if form == schemas.Stack {
		return jsonOf(t, stackRow(j))
	}
	return jsonOf(t, j)
}

type object = map[string]any

// stackRow is a job as the scheduler sends it: rows of a database, with an empty string
// where nothing is set.
func stackRow(j job) object {
	options := object{"id": 1, "builder_id": 2, "keep_going": j.BuildOptions.KeepGoing, "extraargs": j.BuildOptions.ExtraArgs,
		"command": j.BuildOptions.Command, "parallelbuilds": false, "substituters": stackSubstituters(j.BuildOptions)}
	if cores := j.BuildOptions.Cores; cores != nil {
		options["cores"] = *cores
	}
	if maxJobs := j.BuildOptions.MaxJobs; maxJobs != nil {
		options["maxjobs"] = *maxJobs
	}
	cachix := j.BuildOptions.Cachix
	return object{
		"published": true, // at the top there may be anything
		"git_config": object{"id": 3, "builder_id": 2, "repository": j.Git.Repository, "branch": j.Git.Branch, "gitusername": j.Git.GitUsername,
			"gitkey": j.Git.GitKey, "requiresauth": j.Git.RequiresAuth, "noclone": j.Git.NoClone},
		"builder": object{"id": 2, "cache_id": 4, "name": "tests", "description": "", "enabled": true, "trigger": "manual", "cron": "",
			"arch": j.Arch, "webhookurl": ""},
		"build_options": options,
		"cachix_config": object{"id": 5, "builder_id": 2, "push": cachix.Push, "target": cachix.Target, "apikey": cachix.APIKey, "apikeyid": 6,
			"signingkey": cachix.SigningKey, "signingkeyid": 7, "buildoutputdir": ""},
	}
}

func stackSubstituters(o schemas.BuildOptions) []object {
	substituters := []object{{"url": "", "public_signing_keys": append([]string{""}, o.TrustedPublicKeys...)}}
	for _, url := range o.Substituters {
		substituters = append(substituters, object{"url": url, "public_signing_keys": []string{}})
	}
	return substituters
}

var exitCodeAlone = regexp.MustCompile(`"buildExitCode":(\d+),"jobStatus"`)

// begun is when the tests began: what is sent is sent later.
var begun = time.Now()

// inDocumentsForm checks what only a message of today's form has, and returns the message
// as the document has it.
func inDocumentsForm(message []byte) ([]byte, error) {
	// Not with a regular expression: of a million messages, that takes a minute.
	const timestamp = `,"timestamp":`
	i := bytes.LastIndex(message, []byte(timestamp))
	if i < 0 {
		return nil, errors.New("it has no timestamp")
	}
	end := string(message[i+len(timestamp):])
	sent, err := strconv.ParseUint(strings.TrimSuffix(end, "}"), 10, 63)
	if at := time.UnixMilli(int64(sent)); err != nil || !strings.HasSuffix(end, "}") || at.Before(begun.Truncate(time.Millisecond)) || at.After(time.Now()) {
		return nil, fmt.Errorf("its timestamp is %s", end)
	}
	message = append(message[:i], '}')
	if !bytes.Contains(message, []byte("buildExitCode")) {
		return message, nil
	}
	return exitCodeAlone.ReplaceAll(message, []byte(`"buildExitCode":$1,"childExitCode":$1,"jobStatus"`)), nil
}

// checkMessage checks that a message is one of the published schemas that the client should
// get, and returns it as the document has it.
func (c *client) checkMessage(data []byte) ([]byte, error) {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err == nil {
		err = world.messages[messageKind{c.form, c.events}].Validate(value)
	}
	if err != nil || c.events {
		return data, err
	}
	if err := world.response[c.form].Validate(value); err != nil || c.form == schemas.Document {
		return data, err
	}
	return inDocumentsForm(data)
}

// TestStackJobs has jobs of today's form with the least, and with empty strings throughout:
// they do what they say.
func TestStackJobs(t *testing.T) {
	const environment = `sh -c 'echo "$NIX_CONFIG"; echo in $PWD; ls -A'`
	least := object{"git_config": object{"noclone": true}, "build_options": object{"command": environment}, "cachix_config": object{}}
	want := []string{"iglu: running " + environment, "extra-experimental-features = nix-command flakes", "", "in /source"}
	for name, row := range map[string]object{"least": least, "empty": stackRow(command(environment))} {
		t.Run(name, func(t *testing.T) {
			c := connectIn(t, schemas.Stack, world.server)
			c.send(jsonOf(t, row))
			got := c.finish()
			wantExit(t, got, 0)
			// Which Nix the image has decides whether it is told where to tell of its work.
			lines := slices.DeleteFunc(withoutHead(t, world.server, got.lines), func(line string) bool { return strings.HasPrefix(line, "json-log-path = ") })
			if diff := cmp.Diff(want, lines); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

// system is Nix's name of this machine.
var system = map[string]string{"amd64": "x86_64-linux", "arm64": "aarch64-linux"}[runtime.GOARCH]

// TestFullStackJob has a job of today's form with every property set.
func TestFullStackJob(t *testing.T) {
	cache, other := newCache(t), newCache(t)
	j := cache.pushing(world.git.withKey(build(world.git.private+"/hello",
		`sh -c 'echo "$NIX_CONFIG"; echo "[$0][$1]"; nix-build --no-out-link'`), gitPassword))
	cores, maxJobs := schemas.Whole(1), schemas.Whole(2)
	j.Arch, j.Git.Branch = system, "side"
	j.BuildOptions.Cores, j.BuildOptions.MaxJobs, j.BuildOptions.KeepGoing = &cores, &maxJobs, true
	j.BuildOptions.ExtraArgs = "one 'two three'"
	j.BuildOptions.Substituters = []string{cache.url, other.url}
	j.BuildOptions.TrustedPublicKeys = []string{"default:" + publicKey(t), "other-1:" + publicKey(t)}
	got := doIn(t, schemas.Stack, world.server, j)
	wantExit(t, got, 0)
	for _, line := range []string{
		"iglu: commit " + head(t, j), "cores = 1", "max-jobs = 2", "keep-going = true", "[one][two three]",
		"extra-substituters = " + cache.url + " " + other.url,
		"extra-trusted-public-keys = default:" + publicKey(t) + " other-1:" + publicKey(t),
	} {
		wantLine(t, got, line)
	}
	wantTotal(t, got, 1, 0, 0)
	wantNames(t, cache, []string{"side"})
	wantNames(t, other, nil)

	j.Arch = "sparc-linux"
	got = doIn(t, schemas.Stack, world.server, j)
	want := []string{accepted, `{"error":"The job is for \"sparc-linux\", but this builder's engine runs ` + system +
		`.","msg":"Send the job to a builder for that machine, or leave out builder.arch.","jobStatus":"failed"}`}
	if diff := cmp.Diff(want, got.messages); diff != "" || got.closeCode != 1011 || len(got.lines) > 0 {
		t.Errorf("close code %d, lines %q, messages (-want +got):\n%s", got.closeCode, got.lines, diff)
	}
}

// TestPushInEachForm pushes a job of each form, to a cache that takes it and to one that
// does not.
func TestPushInEachForm(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	inForms(t, func(t *testing.T, form schemas.Form) {
		c := newCache(t)
		got := doIn(t, form, s, c.pushing(smallJob()))
		wantExit(t, got, 0)
		wantTotal(t, got, 2, 0, 0)
		wantNames(t, c, bothNames)

		c.clear()
		c.Misbehave(devcache.On("POST", uploadBegin, devcache.Answer(403, "")))
		wantUnpushed(t, doIn(t, form, s, c.pushing(smallJob())), "the cache does not accept the API key (HTTP 403)")
		wantNames(t, c, nil)
	})
}

// TestStackRefusals has today's empty strings where something is needed.
func TestStackRefusals(t *testing.T) {
	change := func(object, name string, value any) string {
		row := stackRow(command("nix --version"))
		row[object].(map[string]any)[name] = value
		return jsonOf(t, row)
	}
	for job, want := range map[string]string{
		change("git_config", "requiresauth", true): "git_config.gitkey: is required when requiresauth is true",
		change("git_config", "noclone", false):     "git_config.repository: is required when noclone is false",
		change("cachix_config", "push", true):      "cachix_config.target: is required when push is true",
		change("build_options", "maxjobs", 0):      "build_options.maxjobs: must be 1 or more",
		change("build_options", "cores", nil):      "build_options.cores: must be a number",
		change("build_options", "command", ""):     "build_options.command: its first word must be one of: ",
	} {
		c := connectIn(t, schemas.Stack, world.server)
		c.send(job)
		got := c.finish()
		var message schemas.Response
		if len(got.messages) != 1 || json.Unmarshal([]byte(got.messages[0]), &message) != nil ||
			!strings.HasPrefix(message.Msg, want) || got.closeCode != 1007 {
			t.Errorf("want %q, got %v, close code %d", want, got.messages, got.closeCode)
		}
	}
}
