package schemas

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// refusal returns the answer to a refused job.
func refusal(t *testing.T, job string) Response {
	t.Helper()
	_, _, err := ParseRequest([]byte(job), allowedCommands)
	r, ok := err.(*Refusal)
	if !ok {
		t.Fatalf("ParseRequest returned %v, want a *Refusal\n%s", err, job)
	}
	return r.Response()
}

// A refusal has everything that is wrong with a job, with the names of its format.
func TestRefusalTellsAll(t *testing.T) {
	for job, want := range map[string]string{
		`{"git":{"requiresAuth":true,"noClone":"no"},"buildOptions":{"cores":-1,"maxJobs":0,"command":7,"cachix":{"push":true}}}`: `git.noClone: must be true or false; ` +
			`buildOptions.cores: must be a whole number from 0 to 2147483647; buildOptions.command: must be a string; ` +
			`git.repository: is required when noClone is false; git.gitKey: is required when requiresAuth is true; ` +
			`buildOptions.cachix.target: is required when push is true; buildOptions.cachix.apiKey: is required when push is true; ` +
			`buildOptions.maxJobs: must be 1 or more`,
		`{"git_config":{"noclone":false},"build_options":{"command":"make"},"cachix_config":{"push":true,"target":"x"}}`: `git_config.repository: is required when noclone is false; ` +
			`cachix_config.apikey: is required when push is true; ` +
			`cachix_config.target: must be an http or https URL that ends in the name of a cache, such as https://cachix.org/NAME, without a user, query or fragment; ` +
			`build_options.command: its first word must be one of: nix, nix-build`,
		`{}`: `git: is missing; buildOptions: is missing`,
		`[]`: `the job must be a JSON object`,
		`{"git":{"noClone":true},"buildOptions":{"command":"nix","cachix":null}}`: `buildOptions.cachix: must be an object`,
	} {
		got := refusal(t, job)
		if diff := cmp.Diff(Response{Error: notValidSchema, Msg: want, JobStatus: Failed}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", job, diff)
		}
	}
}

// A message of 1 MiB, which is the largest by default, can have some 100,000 problems. The answer, and the server's log,
// have the first ones.
func TestRefusalOfManyProblems(t *testing.T) {
	var names, urls strings.Builder
	for i := range 90_000 {
		fmt.Fprintf(&names, `,"x%x":1`, i)
		urls.WriteString(`{"url":1},`)
	}
	for _, job := range []string{
		`{"git":{"noClone":true` + names.String() + `},"buildOptions":{"command":"nix","cachix":{"push":false}}}`,
		`{"git_config":{"noclone":true},"cachix_config":{},"build_options":{"command":"nix","substituters":[` + urls.String() + `{"url":1}]}}`,
	} {
		if got := refusal(t, job).Msg; len(got) > 100*maxProblems || !strings.HasSuffix(got, " more") {
			t.Errorf("%d bytes: %.200s", len(got), got)
		}
	}
}

// A refusal lists 50 problems, and says how many more there are.
func TestRefusalCountsProblems(t *testing.T) {
	for unknown, more := range map[int]string{49: "", 50: "", 51: "; and 1 more", 75: "; and 25 more"} {
		var options strings.Builder
		for i := range unknown {
			fmt.Fprintf(&options, `,"x%x":1`, i)
		}
		got := refusal(t, `{"git":{"noClone":true},"buildOptions":{"command":"nix","cachix":{"push":false}`+options.String()+`}}`).Msg
		const problem = "buildOptions: has a property that the schema does not know"
		if want := strings.Repeat("; "+problem, min(unknown, 50))[2:] + more; got != want {
			t.Errorf("%d unknown properties: %s", unknown, got)
		}
	}
}

// A job with very many keys is refused like any other. Comparing each with all others would take minutes.
func TestRefusalOfManyKeys(t *testing.T) {
	var keys strings.Builder
	for i := range 120_000 {
		fmt.Fprintf(&keys, `"%x",`, i)
	}
	job := `{"git_config":{"noclone":true},"cachix_config":{},"build_options":{"command":"nix","substituters":[{"public_signing_keys":[` + keys.String() + `""]}]}}`
	if got := refusal(t, job).Msg; !strings.Contains(got, "build_options.substituters.public_signing_keys: is too long: at most 61440 bytes are allowed") {
		t.Errorf("got %.200s", got)
	}
}

// TestSameRefusal sends jobs that break several rules, again and again: a client gets the same message each time.
func TestSameRefusal(t *testing.T) {
	for job, want := range map[string]string{
		jobWith(edits{"buildOptions.command": "nix \x01", "buildOptions.extraArgs": "\x01"}): "buildOptions.command: must not hold control characters but line ends and tabs; " +
			"buildOptions.extraArgs: must not hold control characters but line ends and tabs",
		jobWith(edits{"nix.accessTokens": map[string]string{"a.example": "", "no host": "x"}}): "nix.accessTokens: must hold tokens without white space, control characters or #",
	} {
		for range 100 {
			if got := refusal(t, job).Msg; got != want {
				t.Fatalf("got %s\nwant %s", got, want)
			}
		}
	}
}

func TestDidYouMean(t *testing.T) {
	const unknown = "has a property that the schema does not know"
	for options, want := range map[string]string{
		`"keepGoing":true`:         "buildOptions: " + unknown + "; did you mean keep_going?",
		`"KEEP-GOING":true`:        "buildOptions: " + unknown + "; did you mean keep_going?",
		`"substitutors":[]`:        "buildOptions: " + unknown + "; did you mean substituters?",
		`"trustedPublickKey":[]`:   "buildOptions: " + unknown + "; did you mean trustedPublicKeys?",
		`"maxJob":1`:               "buildOptions: " + unknown + "; did you mean maxJobs?",
		`"extraArguments":""`:      "buildOptions: " + unknown,
		`"cord":1`:                 "buildOptions: " + unknown, // of four letters, two are half
		`"a-secret":1`:             "buildOptions: " + unknown,
		`"Command":"","maxjobs":1`: "buildOptions: " + unknown + "; did you mean command?; buildOptions: " + unknown + "; did you mean maxJobs?",
	} {
		job := `{"git":{"noClone":true},"buildOptions":{"command":"nix","cachix":{"push":false},` + options + `}}`
		if got := refusal(t, job).Msg; got != want {
			t.Errorf("%s:\n got %s\nwant %s", options, got, want)
		}
	}
	// Other properties are allowed at the top, so only the missing one shows the error.
	got := refusal(t, `{"git":{"noClone":true},"buildoptions":{"command":"nix","cachix":{"push":false}}}`).Msg
	if want := "buildOptions: is missing; the job has a property whose name is nearly that"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"abc", "abc", 0}, {"abc", "", 3}, {"", "abc", 3}, {"abc", "abd", 1}, {"abc", "ac", 1},
		{"ac", "abc", 1}, {"abc", "bca", 2}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2},
	} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("%q, %q: %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

func TestWhereJSONIsWrong(t *testing.T) {
	for data, want := range map[string]string{
		"":                              "the message is empty, or no text",
		" \n":                           "the message is empty, or no text",
		"{":                             "line 1, column 2: unexpected end of JSON input",
		"{\n  \"git\": nix\n}":          "line 2, column 11: invalid character 'i' in literal null (expecting 'u')",
		"{\"é\": 1, }":                  "line 1, column 10: invalid character '}' looking for beginning of object key string",
		"{} {}":                         "line 1, column 4: invalid character '{' after top-level value",
		"{\n\"a\": 1,\n \"a\": 2}":      "line 3, column 4: the second property of this name in one object",
		"{\"a\": \"\xff\"}":             "line 1, column 8: not UTF-8",
		"\xff":                          "line 1, column 1: not UTF-8",
		"\ufeff{}":                      "line 1, column 1: a byte order mark is before the JSON; save the text as UTF-8 without one",
		"{\"a\": [1, {\"b\": 1,\"b\":}": "line 1, column 23: invalid character '}' looking for beginning of value",
	} {
		got := refusal(t, data)
		if diff := cmp.Diff(Response{Error: notValidJSON, Msg: want, JobStatus: Failed}, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", data, diff)
		}
	}
}

// A job whose command needs a shell is refused, because it would build something else.
func TestShellOperators(t *testing.T) {
	const instead = "; send a job for each command, or quote it if it is meant as a word"
	for command, operator := range map[string]string{
		"nix build .#a && nix build .#b": "&&", "nix run .#app > file": ">", "nix build .#a; true": ";", "nix build .#a | cat": "|",
		"nix build $(cat name)": "$(",
	} {
		want := Response{
			Error: "Invalid command: '" + command + "'", JobStatus: Failed,
			Msg: "buildOptions.command: no shell runs it, so " + operator + " would be passed on as a word" + instead,
		}.withExitCode(2)
		got := refusal(t, jobWith(edits{"buildOptions.command": command}))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", command, diff)
		}
	}
	got := refusal(t, jobWith(edits{"buildOptions.extraArgs": "--a > file"}))
	if want := "buildOptions.extraArgs: no shell runs it, so > would be passed on as a word" + instead; got.Msg != want || got.Error != notValidSchema {
		t.Errorf("in extraArgs: %+v", got)
	}
	got = refusal(t, jobWith(edits{"buildOptions.command": "FOO=bar nix build"}))
	if want := "buildOptions.command: no shell runs it, so it cannot begin with a variable; its first word must be one of: nix, nix-build"; got.Msg != want {
		t.Errorf("with a variable: %+v", got)
	}
}
