package schemas

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestRefused(t *testing.T) {
	for _, form := range forms {
		for _, job := range refusedIn(form) {
			t.Run(formNames[form]+"/"+job.name, func(t *testing.T) {
				request, got, err := ParseRequest([]byte(job.data), allowedCommands)
				var refusal *Refusal
				if !errors.As(err, &refusal) {
					t.Fatalf("ParseRequest returned %+v and error %v, want a *Refusal\n%s", request, err, job.data)
				}
				if got != form {
					t.Errorf("its form is %s", formNames[got])
				}
				checkMessage(t, job, refusal.Response())
				checkSilence(t, job, refusal)
			})
		}
	}
}

// checkMessage compares a refusal's message with the table of the protocol.
func checkMessage(t *testing.T, job refusedJob, got Response) {
	t.Helper()
	want := Response{Error: job.error, Msg: got.Msg, JobStatus: Failed}
	if strings.HasPrefix(job.error, "Invalid command") {
		want = want.withExitCode(2)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("message (-want +got):\n%s", diff)
	}
	if job.error == notValidJSON {
		if !whereJSONIsWrong.MatchString(got.Msg) {
			t.Errorf("msg is %q, want it to say where", got.Msg)
		}
		return
	}
	if !strings.Contains(got.Msg, job.property) || len(got.Msg) <= len(job.property) {
		t.Errorf("msg is %q, want it to name %q and say why", got.Msg, job.property)
	}
}

var whereJSONIsWrong = regexp.MustCompile(`^line \d+, column \d+: .|^the message is empty`)

// checkSilence checks that a refusal contains no values of the job. The only exception in the protocol is a command
// that is not allowed.
func checkSilence(t *testing.T, job refusedJob, refusal *Refusal) {
	t.Helper()
	message := refusal.Response()
	if strings.HasPrefix(message.Error, "Invalid command: '") && message.Error == job.error {
		message.Error = ""
	}
	for _, said := range []string{refusal.Error(), string(message.Encode())} {
		if strings.Contains(said, canary) || strings.Contains(said, canaryNumber) {
			t.Errorf("a value of the request is repeated: %s", said)
		}
	}
}

// A command with an open quote has no first word to speak of, but it must be
// refused by one of the two messages for bad jobs.
func TestRefusesCommandWithOpenQuote(t *testing.T) {
	for _, command := range []string{`nix build "canary`, `nix build 'canary`, `"nix build canary`} {
		_, _, err := ParseRequest([]byte(jobWith(edits{"buildOptions.command": command})), allowedCommands)
		var refusal *Refusal
		if !errors.As(err, &refusal) {
			t.Errorf("%s: error %v, want a *Refusal", command, err)
			continue
		}
		got := refusal.Response()
		if invalid := "Invalid command: '" + command + "'"; got.Error != invalid && got.Error != notValidSchema {
			t.Errorf("%s: error is %q", command, got.Error)
		}
		if !strings.Contains(got.Msg, "buildOptions.command") {
			t.Errorf("%s: msg is %q, want it to name buildOptions.command", command, got.Msg)
		}
	}
}

// An acceptedJob is data that ParseRequest must accept, and the difference between the result and that of validJob.
type acceptedJob struct {
	name string
	data string
	want func(r *Request)
}

func whole(n Integer) *Integer { return &n }

// parsed is validJob as a Request.
func parsed() *Request {
	return &Request{
		Git: Git{
			Repository:   "https://canary.example/repository",
			Branch:       "canary-branch",
			GitUsername:  "canary-user",
			GitKey:       "canary-git-key",
			RequiresAuth: true,
		},
		BuildOptions: BuildOptions{
			Cores:             whole(4),
			MaxJobs:           whole(2),
			KeepGoing:         true,
			ExtraArgs:         "--option canary 1",
			Substituters:      []string{"https://canary.example/a", "https://canary.example/b"},
			TrustedPublicKeys: []string{"canary-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
			Command:           "nix build .#canary",
			Cachix: Cachix{
				Target:     "https://canary.example/default",
				APIKey:     "canary-api-key",
				SigningKey: "canary-signing-key",
			},
		},
		Nix: Nix{
			AccessTokens: map[string]string{"canary.example": "canary-token", "canary.example/group": "PAT:canary-pat"},
			Netrc:        "machine canary.example login canary password canary-password",
		},
	}
}

func acceptedJobs() []acceptedJob {
	return slices.Concat(plainJobs(), numberJobs(), commandJobs(), repositoryJobs(), targetJobs(), nixJobs(), topLevelJobs())
}

func nixJobs() []acceptedJob {
	jobs := []acceptedJob{
		{"nix: nothing", jobWith(edits{"nix": missing}), func(r *Request) { r.Nix = Nix{} }},
		{"nix: empty", jobWith(edits{"nix": literal(`{}`)}), func(r *Request) { r.Nix = Nix{} }},
		{"nix: a host with a port", jobWith(edits{"nix.accessTokens": map[string]string{"canary.example:8443": "canary"}}), func(r *Request) {
			r.Nix.AccessTokens = map[string]string{"canary.example:8443": "canary"}
		}},
	}
	for _, netrc := range []string{
		"", "\n", "# canary\n", "machine canary\n\tlogin canary\r\n\tpassword canary\n", "default login canary password canary",
		"machine canary password \"can \\\"ary\"", "machine a password canary\nmachine b account canary login canary",
	} {
		jobs = append(jobs, acceptedJob{"netrc: " + netrc, jobWith(edits{"nix.netrc": netrc}), func(r *Request) { r.Nix.Netrc = netrc }})
	}
	for _, substituter := range []string{
		"https://canary.example", "http://canary.example:8080/a?priority=10", "s3://canary?region=eu&endpoint=x", "ssh://canary@canary.example",
		"ssh-ng://canary.example", "file:///canary", "https://[::1]/canary", "https://user@canary.example",
	} {
		jobs = append(jobs, acceptedJob{"substituter: " + substituter, jobWith(edits{"buildOptions.substituters": []string{substituter}}),
			func(r *Request) { r.BuildOptions.Substituters = []string{substituter} }})
	}
	return jobs
}

func plainJobs() []acceptedJob {
	const pem = "-----BEGIN OPENSSH PRIVATE KEY-----\ncanary\r\n\tcanary\n-----END OPENSSH PRIVATE KEY-----\n"
	const escaped = `"g\u0069t": {`
	return []acceptedJob{
		{"everything", validJob, func(r *Request) {}},
		{"white space around", " \r\n\t" + validJob + "\n", func(r *Request) {}},
		{"name spelled with an escape", replaced(`"git": {`, escaped), func(r *Request) {}},
		{"the documentation's", documentedJob, func(r *Request) {
			*r = Request{
				Git: Git{Repository: "https://github.com/iglu-sh/builder"},
				BuildOptions: BuildOptions{Command: "nix build .#iglu-builder", Cachix: Cachix{
					Target:     "http://cache.example.com/default",
					APIKey:     "0197178f-b4f3-7000-acai-fec951e85504",
					SigningKey: "SgykdnDTu9iRkZZQhaif81C22fUERBiagMvD2oeMBUaE/4yAPYL3PJHinFVWkuvwUwp1MhSSKQ7pVlO4FGGCSQ==",
				}},
			}
		}},
		{"the least", `{"git":{"noClone":true},"buildOptions":{"command":"nix","cachix":{"push":false}}}`, func(r *Request) {
			*r = Request{Git: Git{NoClone: true}, BuildOptions: BuildOptions{Command: "nix"}}
		}},
		{"key of many lines", jobWith(edits{"git.gitKey": pem}), func(r *Request) { r.Git.GitKey = pem }},
		{"key without need", jobWith(edits{"git.requiresAuth": false}), func(r *Request) { r.Git.RequiresAuth = false }},
		{"text beyond ASCII", jobWith(edits{"git.branch": "ветка-枝-\u2028-<&>"}), func(r *Request) { r.Git.Branch = "ветка-枝-\u2028-<&>" }},
		{"empty lists", jobWith(edits{"buildOptions.substituters": []string{}, "buildOptions.trustedPublicKeys": []string{}}), func(r *Request) {
			r.BuildOptions.Substituters, r.BuildOptions.TrustedPublicKeys = []string{}, []string{}
		}},
		{"no push, no cache", jobWith(edits{"buildOptions.cachix": edits{"push": false}}), func(r *Request) {
			r.BuildOptions.Cachix = Cachix{}
		}},
	}
}

func numberJobs() []acceptedJob {
	var jobs []acceptedJob
	for spelling, n := range sorted(map[string]Integer{"0": 0, "-0": 0, "0.0": 0, "2.0": 2, "2e0": 2, "20E-1": 2, "0.2e+1": 2, "64": 64}) {
		jobs = append(jobs, acceptedJob{"cores " + spelling, jobWith(edits{"buildOptions.cores": literal(spelling)}),
			func(r *Request) { r.BuildOptions.Cores = whole(n) }})
	}
	for spelling, n := range sorted(map[string]Integer{"1": 1, "1.0": 1, "1e0": 1, "16": 16}) {
		jobs = append(jobs, acceptedJob{"maxJobs " + spelling, jobWith(edits{"buildOptions.maxJobs": literal(spelling)}),
			func(r *Request) { r.BuildOptions.MaxJobs = whole(n) }})
	}
	return append(jobs, acceptedJob{"no numbers", jobWith(edits{"buildOptions.cores": missing, "buildOptions.maxJobs": missing}),
		func(r *Request) { r.BuildOptions.Cores, r.BuildOptions.MaxJobs = nil, nil }})
}

// A command and its arguments reach the container unchanged.
func commandJobs() []acceptedJob {
	var jobs []acceptedJob
	for _, command := range []string{
		"nix-build -A canary", "'nix' build", `n\ix build`, "  nix build", "nix", "nix\tbuild\n.#canary", "\tnix build .#canary\r\n",
		"nix build 'a\tb' \"c\nd\"", "nix eval --expr '1 # canary\n + 2'", "nix build \\\n  .#canary",
		"nix run .#canary -- '&&' \"|\" \\> '$(x)'", "nix-build <nixpkgs> -A canary", "nix build git+https://canary.example/x?a=b&ref=c",
	} {
		jobs = append(jobs, acceptedJob{"command " + command, jobWith(edits{"buildOptions.command": command}),
			func(r *Request) { r.BuildOptions.Command = command }})
	}
	const lines = "--a\n--b\t'c\td'\n"
	return append(jobs,
		acceptedJob{"arguments in lines", jobWith(edits{"buildOptions.extraArgs": lines}),
			func(r *Request) { r.BuildOptions.ExtraArgs = lines }},
		acceptedJob{"no arguments", jobWith(edits{"buildOptions.extraArgs": ""}),
			func(r *Request) { r.BuildOptions.ExtraArgs = "" }})
}

func repositoryJobs() []acceptedJob {
	var jobs []acceptedJob
	for _, repository := range []string{
		"https://github.com/iglu-sh/builder", "https://canary.example/a/b/c.git", "http://127.0.0.1:8080/r", "http://[::1]:8080/r",
		"ssh://canary.example/r", "ssh://git@canary.example:2222/~user/r.git", "git://canary.example/r",
		"git@github.com:iglu-sh/builder.git", "git@canary.example:/absolute/r", "first.last@canary.example:r", "git@canary_git_1:r",
	} {
		jobs = append(jobs, acceptedJob{"repository " + repository, jobWith(edits{"git.repository": repository}),
			func(r *Request) { r.Git.Repository = repository }})
	}
	for repository, want := range sorted(map[string][2]string{
		"https://canary@canary.example/r":                  {"canary", "https://canary.example/r"},
		"http://can%40ary@canary.example:8080/r.git":       {"can@ary", "http://canary.example:8080/r.git"},
		"https://canary@canary.example/a%2Fb/%E6%9E%9D":    {"canary", "https://canary.example/a%2Fb/%E6%9E%9D"},
		"https://oauth2@canary.example/group/sub/project/": {"oauth2", "https://canary.example/group/sub/project/"},
	}) {
		jobs = append(jobs, acceptedJob{"repository " + repository,
			jobWith(edits{"git.repository": repository, "git.gitUsername": missing}),
			func(r *Request) { r.Git.GitUsername, r.Git.Repository = want[0], want[1] }})
	}
	return append(jobs, acceptedJob{"repository of no one with noClone",
		jobWith(edits{"git.repository": missing, "git.noClone": true}),
		func(r *Request) { r.Git.Repository, r.Git.NoClone = "", true }})
}

func targetJobs() []acceptedJob {
	var jobs []acceptedJob
	for _, target := range []string{
		"http://cache.example.com/default", "https://canary.example:8443/a/b/my-cache_1.x", "http://[::1]:3000/default",
		"http://127.0.0.1/c",
	} {
		jobs = append(jobs, acceptedJob{"target " + target, jobWith(edits{"buildOptions.cachix.target": target}),
			func(r *Request) { r.BuildOptions.Cachix.Target = target }})
	}
	return jobs
}

// The schema allows any other property at the top, and a name that differs in case
// is another property.
func topLevelJobs() []acceptedJob {
	var jobs []acceptedJob
	for _, stray := range []string{
		`"canary": null`, `"canary": 1e999`, `"canary": {"git": {"noClone": 1}}`, `"": ""`, `"command": "make"`,
		`"push": true`, `"noClone": "x"`, `"GIT": {"noClone": true}`, `"Git": 7`, `"BUILDOPTIONS": []`,
		`"buildoptions": {"command": "make", "cachix": {"push": true}}`, `"git.noClone": true`,
		`"$schema": "https://canary.example/schema"`, `"$ref": "https://canary.example/"`, `"canary": "\ud800"`,
		`"canary": {"a": {"a": {"a": [{"a": 1}, {"a": 2}]}}}`, `"canary": "\u0000\n"`,
	} {
		jobs = append(jobs,
			acceptedJob{"before: " + stray, replaced("\"git\": {", stray+`, "git": {`), func(r *Request) {}},
			acceptedJob{"after: " + stray, strings.TrimSuffix(validJob, "}") + ", " + stray + "}", func(r *Request) {}})
	}
	return jobs
}

func TestAccepted(t *testing.T) {
	for _, form := range forms {
		for _, job := range acceptedIn(form) {
			t.Run(formNames[form]+"/"+job.name, func(t *testing.T) {
				got, gotForm, err := ParseRequest([]byte(job.data), allowedCommands)
				if err != nil {
					t.Fatalf("ParseRequest: %v\n%s", err, job.data)
				}
				if gotForm != form {
					t.Errorf("its form is %s", formNames[gotForm])
				}
				want := parsed()
				job.want(want)
				if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("request (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// A text of the largest length is accepted, and one with a byte more is refused.
func TestLongest(t *testing.T) {
	for path, most := range longest {
		if _, _, err := ParseRequest([]byte(jobWith(edits{path: ofLength(path, most)})), allowedCommands); err != nil {
			t.Errorf("%s of %d bytes: %v", path, most, err)
		}
		_, _, err := ParseRequest([]byte(jobWith(edits{path: ofLength(path, most+1)})), allowedCommands)
		if want := "request refused: " + path + fmt.Sprintf(": is too long: at most %d bytes are allowed", most); err == nil || err.Error() != want {
			t.Errorf("%s of %d bytes: %v, want %s", path, most+1, err, want)
		}
	}
}

func TestRefusalKind(t *testing.T) {
	for _, job := range []struct{ data, kind, err string }{
		{`{`, "malformed", "not a valid JSON: line 1, column 2: unexpected end of JSON input"},
		{`[]`, "invalid", "request refused: the job must be a JSON object"},
		{`null`, "invalid", "request refused: the job must be a JSON object"},
		{jobWith(edits{"git.noClone": missing}), "invalid", "request refused: git.noClone: is missing"},
		{jobWith(edits{"buildOptions.maxJobs": 0}), "invalid", "request refused: buildOptions.maxJobs: must be 1 or more"},
		{jobWith(edits{"buildOptions.command": "make"}), "command",
			"command not allowed: buildOptions.command: its first word must be one of: nix, nix-build"},
	} {
		_, _, err := ParseRequest([]byte(job.data), allowedCommands)
		refusal, ok := errors.AsType[*Refusal](err)
		if !ok || refusal.Kind() != job.kind || refusal.Error() != job.err {
			t.Errorf("%s: %v", job.data, err)
		}
	}
}

// A repository has one address, in whatever case its scheme and its host are written: the jobs of a repository share a
// store, and the host is that of its submodules. The case of the user and the path counts.
func TestRepositoryIsNormalized(t *testing.T) {
	for repository, want := range map[string]string{
		"HTTPS://Git.Example.com/Org/Repo":           "https://git.example.com/Org/Repo",
		"https://Git.Example.com:8443/Org@A/Repo":    "https://git.example.com:8443/Org@A/Repo",
		"https://User@Git.Example.com/Repo":          "https://git.example.com/Repo",
		"ssh://Git@Git.Example.com:2222/~User/R.git": "ssh://Git@git.example.com:2222/~User/R.git",
		"git://[2001:DB8::1]/Repo":                   "git://[2001:db8::1]/Repo",
		"Git@Git.Example.com:Org/Repo:A@B.git":       "Git@git.example.com:Org/Repo:A@B.git",
	} {
		job := fmt.Sprintf(`{"git":{"noClone":false,"repository":%q},"buildOptions":{"command":"nix build","cachix":{"push":false}}}`, repository)
		r, _, err := ParseRequest([]byte(job), allowedCommands)
		if err != nil {
			t.Errorf("%s: %v", repository, err)
		} else if r.Git.Repository != want {
			t.Errorf("%s is %s, want %s", repository, r.Git.Repository, want)
		}
	}
}

// A token as the user of a repository's URL is the key. As with git itself, the host gets it, and it is as secret as
// every other key.
func TestTokenAsUser(t *testing.T) {
	const github, gitlab, gitea = "ghp_0123456789abcdefghijABCDEFGHIJ012345", "glpat-0123456789abcdefABCD", "0123456789abcdef0123456789abcdef01234567"
	for _, test := range []struct {
		repository, user, key string // as sent
		wantUser, wantKey     string
	}{
		{"https://" + github + "@host/r", "", "", "", github},
		{"https://" + gitlab + "@host/r", "", "", "", gitlab},
		{"https://" + gitea + "@host/r", "me", "", "me", gitea},
		{"https://" + github + "@host/r", "", "key", github, "key"},
		{"https://some-organisation-2024@host/r", "", "", "some-organisation-2024", ""},
		{"https://host/r", github, "x-oauth-basic", github, "x-oauth-basic"},
	} {
		job := fmt.Sprintf(`{"git":{"noClone":false,"repository":%q,"gitUsername":%q,"gitKey":%q},"buildOptions":{"command":"nix build","cachix":{"push":false}}}`,
			test.repository, test.user, test.key)
		r, _, err := ParseRequest([]byte(job), allowedCommands)
		if err != nil {
			t.Fatal(err)
		}
		if r.Git.Repository != "https://host/r" || r.Git.GitUsername != test.wantUser || r.Git.GitKey != test.wantKey {
			t.Errorf("%s: %+v", test.repository, r.Git)
		}
		public, err := json.Marshal(r.Public())
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range []string{github, gitlab, gitea} {
			if strings.Contains(job, token) && (strings.Contains(string(public), token) || !slices.Contains(r.Secrets(), token)) {
				t.Errorf("%s: its token is no secret: %s, %q", test.repository, public, r.Secrets())
			}
		}
	}
}

// Nix compares the hosts of tokens with those of inputs, which are in small letters. What follows a host is a path.
func TestTokenHostsAreNormalized(t *testing.T) {
	job := `{"git":{"noClone":true},"buildOptions":{"command":"nix build","cachix":{"push":false}},` +
		`"nix":{"accessTokens":{"GitHub.com":"one","Git.Example.com:8443/Group":"two","gitlab.com":"three","GitLab.com":"four"}}}`
	r, _, err := ParseRequest([]byte(job), allowedCommands)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"github.com": "one", "git.example.com:8443/Group": "two", "gitlab.com": "three"}
	if diff := cmp.Diff(want, r.Nix.AccessTokens); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A command is compared with the given list, whatever it contains.
func TestAllowedCommands(t *testing.T) {
	job := []byte(jobWith(edits{"buildOptions.command": "make canary"}))
	if _, _, err := ParseRequest(job, []string{"nix", "make"}); err != nil {
		t.Errorf("make is allowed and was refused: %v", err)
	}
	if _, _, err := ParseRequest([]byte(validJob), []string{"make"}); err == nil {
		t.Error("nix is not allowed and was accepted")
	}
	if _, _, err := ParseRequest([]byte(validJob), nil); err == nil {
		t.Error("nothing is allowed and nix was accepted")
	}
}

// An accepted job that is encoded and parsed again is the same job, in either format.
func TestParseAgain(t *testing.T) {
	for _, form := range forms {
		for _, job := range acceptedIn(form) {
			first, _, err := ParseRequest([]byte(job.data), allowedCommands)
			if err != nil {
				continue // TestAccepted says so
			}
			data, err := json.Marshal(first)
			if err != nil {
				t.Fatal(err)
			}
			second, _, err := ParseRequest(data, allowedCommands)
			if err != nil {
				t.Errorf("%s: %v\n%s", job.name, err, data)
				continue
			}
			if diff := cmp.Diff(first, second, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s (-first +second):\n%s", job.name, diff)
			}
		}
	}
}

// TestReadRequest reads jobs in both formats, including jobs that break a rule.
func TestReadRequest(t *testing.T) {
	for text, target := range map[string]string{
		`{"git":{"noClone":true},"buildOptions":{"command":"no such","cachix":{"push":true,"target":"https://c/n"}}}`:             "https://c/n",
		`{"git_config":{"noclone":false},"build_options":{"command":"nix"},"cachix_config":{"push":true,"target":"https://c/n"}}`: "https://c/n",
		`{"git":{"noClone":true}}`: "", `[]`: "", `{`: "", `{"git":{},"git_config":{}}`: "",
	} {
		request, ok := ReadRequest([]byte(text))
		if ok != (target != "") || ok && request.BuildOptions.Cachix.Target != target {
			t.Errorf("%s: %v, %+v", text, ok, request)
		}
	}
}

// A token of Nix's access-tokens may begin with its kind, which only Nix's fetcher for GitLab needs.
func TestBareToken(t *testing.T) {
	for token, want := range map[string]string{
		"PAT:a": "a", "OAuth2:a": "a", "PAT:a:b": "a:b", "a": "a", "": "", "PAT": "PAT", "a:b": "a:b", "pat:a": "pat:a", "PAT:": "",
	} {
		if got := BareToken(token); got != want {
			t.Errorf("%q: %q, want %q", token, got, want)
		}
	}
}

// A whole number may be written in any way that JSON has, but its length is limited.
func TestInteger(t *testing.T) {
	for text, want := range map[string]Integer{
		"0": 0, "9": 9, "10": 10, "1e0": 1, "1E+3": 1000, "25e-0": 25, "4.0": 4, "40e-1": 4, "-0": 0, "2147483647": math.MaxInt32,
		"4." + strings.Repeat("0", maxNumber-2): 4, "1e" + strings.Repeat("0", maxExponent-1) + "1": 10,
	} {
		got := Integer(-1)
		if err := got.UnmarshalJSON([]byte(text)); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for text, want := range map[string]error{
		"1.5": errNotWhole, "-1": errNotWhole, "2147483648": errNotWhole, "9e99": errNotWhole, "4.00000000000000000001": errNotWhole,
		"4." + strings.Repeat("0", maxNumber-1): errNotWhole, "1e" + strings.Repeat("0", maxExponent) + "1": errNotWhole,
		`"1"`: errNotNumber, "null": errNotNumber, "[1]": errNotNumber, "{}": errNotNumber, "true": errNotNumber, "/": errNotNumber, ":": errNotNumber,
	} {
		got := Integer(-1)
		if err := got.UnmarshalJSON([]byte(text)); !errors.Is(err, want) || got != -1 {
			t.Errorf("%s: %d, %v; want %v", text, got, err, want)
		}
	}
}

// The lengths of secrets are limited in total: of all access tokens, and of all secrets in a command.
func TestSecretsInTotal(t *testing.T) {
	secret := func(length int) string { return strings.Repeat("x", length) }
	for _, test := range []struct {
		length  int // of each of two secrets
		refused bool
	}{{7 << 10, false}, {9 << 10, true}} {
		for want, job := range map[string]string{
			"nix.accessTokens: is too long": jobWith(edits{"nix.accessTokens": map[string]string{
				"a.example": secret(test.length), "b.example": secret(test.length)}}),
			"buildOptions.command: holds secrets that are too long to be masked": jobWith(edits{"buildOptions.command": "nix build" +
				" https://a:" + secret(test.length) + "@a.example https://b:y" + secret(test.length) + "@b.example"}),
		} {
			_, _, err := ParseRequest([]byte(job), allowedCommands)
			if refused := err != nil && strings.HasPrefix(err.Error(), "request refused: "+want); refused != test.refused || err != nil && !refused {
				t.Errorf("two of %d bytes: %v; want %q: %t", test.length, err, want, test.refused)
			}
		}
	}
}

// A command that is not allowed is repeated in the message, but not if the job has more secrets than can be masked.
func TestSecretsOfUnknownCommand(t *testing.T) {
	for length, want := range map[int]string{
		1 << 10:  "make https://a:***@a.example",
		15 << 10: "…",
	} {
		secret := strings.Repeat("x", length)
		tokens := make(map[string]string)
		for i := range 10 {
			tokens[fmt.Sprintf("host%d.example", i)] = secret
		}
		job := jobWith(edits{"nix.accessTokens": tokens, "buildOptions.command": "make https://a:" + secret + "@a.example"})
		_, _, err := ParseRequest([]byte(job), allowedCommands)
		refusal, ok := errors.AsType[*Refusal](err)
		if !ok {
			t.Fatal(err)
		}
		if refusal.command != want {
			t.Errorf("11 secrets of %d bytes: %.200q, want %q", length, refusal.command, want)
		}
	}
}
