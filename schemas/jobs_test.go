package schemas

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
)

// This file has the table of jobs for the tests of ParseRequest. Every text of a job contains the word canary, and
// every number that must not be repeated is canaryNumber, so that a test finds messages that repeat a value.

const (
	canary       = "canary"
	canaryNumber = "31337"
)

// validJob sets every property that the schema knows.
const validJob = `{
  "git": {
    "repository": "https://canary.example/repository",
    "branch": "canary-branch",
    "gitUsername": "canary-user",
    "gitKey": "canary-git-key",
    "requiresAuth": true,
    "noClone": false
  },
  "buildOptions": {
    "cores": 4,
    "maxJobs": 2,
    "keep_going": true,
    "extraArgs": "--option canary 1",
    "substituters": ["https://canary.example/a", "https://canary.example/b"],
    "trustedPublicKeys": ["canary-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="],
    "command": "nix build .#canary",
    "cachix": {
      "push": false,
      "target": "https://canary.example/default",
      "apiKey": "canary-api-key",
      "signingKey": "canary-signing-key"
    }
  },
  "nix": {
    "accessTokens": { "canary.example": "canary-token", "canary.example/group": "PAT:canary-pat" },
    "netrc": "machine canary.example login canary password canary-password"
  }
}`

// documentedJob is the example of the documentation, with its missing comma added, and without the push, which has
// further rules.
const documentedJob = `{
  "git": {
    "noClone": false,
    "repository": "https://github.com/iglu-sh/builder"
  },
  "buildOptions": {
    "command": "nix build .#iglu-builder",
    "cachix": {
      "push": false,
      "target": "http://cache.example.com/default",
      "apiKey": "0197178f-b4f3-7000-acai-fec951e85504",
      "signingKey": "SgykdnDTu9iRkZZQhaif81C22fUERBiagMvD2oeMBUaE/4yAPYL3PJHinFVWkuvwUwp1MhSSKQ7pVlO4FGGCSQ=="
    }
  }
}`

var allowedCommands = []string{"nix", "nix-build"}

// edits are values by the path, with dots, of the property that they replace or add.
type edits map[string]any

// missing as a value removes the property.
var missing = new(int)

// literal is JSON that keeps its spelling, such as 2e0.
type literal = json.RawMessage

// jobWith returns validJob with edits.
func jobWith(e edits) string {
	var document map[string]any
	if err := json.Unmarshal([]byte(validJob), &document); err != nil {
		panic(err)
	}
	for path, value := range e {
		names := strings.Split(path, ".")
		object, last := document, len(names)-1
		for _, name := range names[:last] {
			object = object[name].(map[string]any)
		}
		if value == missing {
			delete(object, names[last])
		} else {
			object[names[last]] = value
		}
	}
	data, err := json.Marshal(document)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// replaced returns validJob with a part of its text replaced, for texts that an encoder cannot make.
func replaced(from, to string) string {
	if strings.Count(validJob, from) != 1 {
		panic(fmt.Sprintf("%q is not in one place of the job", from))
	}
	return strings.Replace(validJob, from, to, 1)
}

// sorted ranges over m in the order of its keys, so that a job has the same place in
// the table, and a seed of the fuzzer the same number, in every run.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			if !yield(key, m[key]) {
				return
			}
		}
	}
}

// A refusedJob is data that ParseRequest must refuse with the error and, if a property is wrong, with its name in
// msg.
type refusedJob struct {
	name     string
	data     string
	error    string
	property string
}

const (
	notValidJSON   = "Not a valid JSON"
	notValidSchema = "JSON schema is not valid."
)

func refusedJobs() []refusedJob {
	var all []refusedJob
	for _, some := range [][]refusedJob{
		brokenDocuments(), duplicateNames(), wrongShapes(), wrongTypes(), missingProperties(), strayProperties(),
		missingCompanions(), wrongNumbers(), controlCharacters(), tooLong(), badRepositories(), badTargets(), badCommands(),
		badSubstituters(), badKeys(), badTokens(), badNetrcs(),
	} {
		all = append(all, some...)
	}
	return all
}

func brokenDocuments() []refusedJob {
	documents := map[string]string{
		"empty":                      "",
		"only white space":           " \r\n\t",
		"plain text":                 "canary",
		"cut short":                  validJob[:len(validJob)-1],
		"two documents":              validJob + validJob,
		"two documents in two lines": validJob + "\n" + validJob,
		"text after the document":    validJob + "canary",
		"brace after the document":   validJob + "}",
		"comma after the document":   validJob + ",",
		"byte order mark":            "\ufeff" + validJob,
		"NUL after the document":     validJob + "\x00",
		"comment":                    replaced(`"git": {`, `"git": { // canary`),
		"single quotes":              replaced(`"branch": "canary-branch"`, `"branch": 'canary-branch'`),
		"name without quotes":        replaced(`"branch":`, `branch:`),
		"comma before a brace":       replaced(`"noClone": false`, `"noClone": false,`),
		"no comma, as documented":    strings.Replace(documentedJob, `"noClone": false,`, `"noClone": false`, 1),
		"number NaN":                 replaced(`"cores": 4`, `"cores": NaN`),
		"number with leading zero":   replaced(`"cores": 4`, `"cores": 0`+canaryNumber),
		"number with plus":           replaced(`"cores": 4`, `"cores": +`+canaryNumber),
		"number in hexadecimal":      replaced(`"cores": 4`, `"cores": 0x`+canaryNumber),
		"literal in capitals":        replaced(`"noClone": false`, `"noClone": False`),
		"raw line end in a string":   replaced(`canary-branch`, "canary\nbranch"),
		"raw tab in a string":        replaced(`canary-branch`, "canary\tbranch"),
		"unknown escape":             replaced(`canary-branch`, `canary\xbranch`),
		"invalid UTF-8 in a value":   replaced(`canary-branch`, "canary-\xff"),
		"invalid UTF-8 in gitKey":    replaced(`canary-git-key`, "canary-\xc3("),
		"invalid UTF-8 in a name":    replaced(`"git": {`, "\"canary\xff\": 1, \"git\": {"),
		"invalid UTF-8 deep inside":  replaced(`"git": {`, "\"canary\": [{\"a\": \"\x80\"}], \"git\": {"),
		"UTF-8 cut short":            replaced(`canary-branch`, "canary-\xe2\x82"),
		"UTF-8 of a surrogate":       replaced(`canary-branch`, "canary-\xed\xa0\x80"),
		"UTF-8 longer than needed":   replaced(`canary-branch`, "canary-\xc0\xaf"),
		"invalid UTF-8 at the end":   validJob + "\xff",
		"UTF-16":                     "\xff\xfe{\x00}\x00",
	}
	var jobs []refusedJob
	for name, data := range sorted(documents) {
		jobs = append(jobs, refusedJob{"document: " + name, data, notValidJSON, ""})
	}
	return jobs
}

func duplicateNames() []refusedJob {
	documents := map[string]string{
		"at the top":                  replaced(`"git": {`, `"git": {"noClone": true}, "git": {`),
		"at the top, unknown":         replaced(`"git": {`, `"canary": 1, "canary": 1, "git": {`),
		"in git":                      replaced(`"noClone": false`, `"noClone": false, "noClone": true`),
		"in buildOptions":             replaced(`"cores": 4`, `"cores": 4, "cores": 4`),
		"in nix":                      replaced(`"netrc":`, `"netrc": "", "netrc":`),
		"of hosts of tokens":          replaced(`"canary.example": "canary-token"`, `"canary.example": "", "canary.example": "canary-token"`),
		"in cachix":                   replaced(`"push": false`, `"push": false, "push": true`),
		"not beside each other":       replaced(`"noClone": false`, `"noClone": false, "repository": "canary"`),
		"spelled with an escape":      replaced(`"noClone": false`, `"noClone": false, "noClon\u0065": true`),
		"of the empty name":           replaced(`"git": {`, `"": 1, "": 1, "git": {`),
		"in an unknown property":      replaced(`"git": {`, `"canary": {"a": 1, "a": 2}, "git": {`),
		"in an array of an unknown":   replaced(`"git": {`, `"canary": [[{"a": 1}, {"b": 1, "b": 2}]], "git": {`),
		"in an array of buildOptions": replaced(`["canary-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]`, `[{"canary": 1, "canary": 1}]`),
		"after an object and an array": replaced(`"git": {`,
			`"canary": {"a": {"b": 1}, "c": [{"b": 1}], "a": 1}, "git": {`),
	}
	var jobs []refusedJob
	for name, data := range sorted(documents) {
		jobs = append(jobs, refusedJob{"duplicate " + name, data, notValidJSON, ""})
	}
	return jobs
}

func wrongShapes() []refusedJob {
	return []refusedJob{
		{"shape: null", `null`, notValidSchema, ""},
		{"shape: string", `"canary"`, notValidSchema, ""},
		{"shape: number", canaryNumber, notValidSchema, ""},
		{"shape: boolean", `true`, notValidSchema, ""},
		{"shape: array", `[]`, notValidSchema, ""},
		{"shape: job in an array", "[" + validJob + "]", notValidSchema, ""},
		{"shape: empty object", `{}`, notValidSchema, "git"},
		{"shape: empty git", jobWith(edits{"git": edits{}}), notValidSchema, "git.noClone"},
		{"shape: empty buildOptions", jobWith(edits{"buildOptions": edits{}}), notValidSchema, "buildOptions"},
	}
}

// wrongTypes has each property of the schema with each wrong type.
func wrongTypes() []refusedJob {
	types := map[string][]string{
		"object": {"git", "buildOptions", "buildOptions.cachix", "nix"},
		"boolean": {"git.requiresAuth", "git.noClone", "buildOptions.keep_going",
			"buildOptions.cachix.push"},
		"number": {"buildOptions.cores", "buildOptions.maxJobs"},
		"array":  {"buildOptions.substituters", "buildOptions.trustedPublicKeys"},
		"string": {"git.repository", "git.branch", "git.gitUsername", "git.gitKey",
			"buildOptions.extraArgs", "buildOptions.command", "buildOptions.cachix.target",
			"buildOptions.cachix.apiKey", "buildOptions.cachix.signingKey", "nix.netrc"},
	}
	values := []struct{ kind, value string }{
		{"null", `null`}, {"object", `{}`}, {"object", `{"canary": "canary"}`}, {"array", `[]`},
		{"array", `["canary"]`}, {"number", `1`}, {"number", `0`}, {"number", canaryNumber}, {"boolean", `true`},
		{"boolean", `false`}, {"string", `"canary"`}, {"string", `"true"`}, {"string", `"false"`},
		{"string", `"1"`}, {"string", `"0"`}, {"string", `"` + canaryNumber + `"`}, {"string", `""`},
	}
	var jobs []refusedJob
	for kind, paths := range sorted(types) {
		for _, path := range paths {
			for _, v := range values {
				if v.kind != kind {
					jobs = append(jobs, refusedJob{"type: " + path + " as " + v.value,
						jobWith(edits{path: literal(v.value)}), notValidSchema, path})
				}
			}
		}
	}
	return append(jobs, wrongItems(types["array"])...)
}

func wrongItems(paths []string) []refusedJob {
	var jobs []refusedJob
	for _, path := range paths {
		for _, value := range []string{`[null]`, `["canary", 31337]`, `[["canary"]]`, `[{"canary": "canary"}]`, `[true]`} {
			jobs = append(jobs, refusedJob{"type: " + path + " as " + value,
				jobWith(edits{path: literal(value)}), notValidSchema, path})
		}
	}
	return jobs
}

func missingProperties() []refusedJob {
	var jobs []refusedJob
	for _, path := range []string{"git", "buildOptions", "git.noClone", "buildOptions.command",
		"buildOptions.cachix", "buildOptions.cachix.push"} {
		jobs = append(jobs, refusedJob{"missing: " + path, jobWith(edits{path: missing}), notValidSchema, path})
	}
	return jobs
}

// strayProperties has unknown names, names of another object, and known names with another case of a letter.
func strayProperties() []refusedJob {
	objects := map[string][]string{
		"git": {"canary", "", "push", "command", "git", "buildOptions", "cachix", "Repository", "NOCLONE",
			"requiresauth", "GitKey", "repo\u017fitory"},
		"buildOptions": {"canary", "", "push", "repository", "noClone", "git", "buildOptions", "target", "Command",
			"Cores", "keep_Going", "keepGoing", "CACHIX", "\u212aeep_going"},
		"nix":                 {"canary", "", "gitKey", "accesstokens", "access-tokens", "Netrc"},
		"buildOptions.cachix": {"canary", "", "command", "noClone", "cachix", "PUSH", "Target", "apikey", "ApiKey"},
	}
	var jobs []refusedJob
	for object, names := range sorted(objects) {
		for _, name := range names {
			jobs = append(jobs, refusedJob{"stray: " + object + "." + name,
				jobWith(edits{object + "." + name: canary}), notValidSchema, object})
		}
	}
	for _, name := range []string{"git", "buildOptions"} {
		other := strings.ToUpper(name)
		jobs = append(jobs, refusedJob{"stray: " + other + " instead of " + name,
			replaced(`"`+name+`":`, `"`+other+`":`), notValidSchema, name})
	}
	return append(jobs,
		refusedJob{"stray: NoClone instead of noClone", jobWith(edits{"git.noClone": missing, "git.NoClone": false}),
			notValidSchema, "git"},
		refusedJob{"stray: Command instead of command",
			jobWith(edits{"buildOptions.command": missing, "buildOptions.Command": canary}), notValidSchema, "buildOptions"})
}

func missingCompanions() []refusedJob {
	push := func(path string, value any) string {
		return jobWith(edits{"buildOptions.cachix.push": true, path: value})
	}
	const target, apiKey = "buildOptions.cachix.target", "buildOptions.cachix.apiKey"
	return []refusedJob{
		{"rule: clone of nothing", jobWith(edits{"git.repository": missing}), notValidSchema, "git.repository"},
		{"rule: clone of an empty URL", jobWith(edits{"git.repository": ""}), notValidSchema, "git.repository"},
		{"rule: auth without key", jobWith(edits{"git.gitKey": missing}), notValidSchema, "git.gitKey"},
		{"rule: auth with an empty key", jobWith(edits{"git.gitKey": ""}), notValidSchema, "git.gitKey"},
		{"rule: auth without key, no clone", jobWith(edits{"git.gitKey": missing, "git.noClone": true}), notValidSchema, "git.gitKey"},
		{"rule: push without target", push(target, missing), notValidSchema, target},
		{"rule: push to an empty target", push(target, ""), notValidSchema, target},
		{"rule: push without key", push(apiKey, missing), notValidSchema, apiKey},
		{"rule: push with an empty key", push(apiKey, ""), notValidSchema, apiKey},
		{"rule: push to a bad target", push(target, "ftp://canary.example/default"), notValidSchema, target},
	}
}

func wrongNumbers() []refusedJob {
	numbers := map[string][]string{
		"buildOptions.cores": {"-1", "-31337", "0.5", "31337.5", "-0.5", "25e-1", "1e-400", "4.00000000000000000001",
			"1e999", "-1e999"},
		"buildOptions.maxJobs": {"0", "-0", "0.0", "0e9", "-1", "-31337", "1.5", "31337.5", "15e-1",
			"1.00000000000000000001", "1e999"},
	}
	var jobs []refusedJob
	for path, values := range sorted(numbers) {
		for _, value := range values {
			jobs = append(jobs, refusedJob{"number: " + path + " as " + value,
				jobWith(edits{path: literal(value)}), notValidSchema, path})
		}
	}
	return jobs
}

func controlCharacters() []refusedJob {
	type place struct {
		path  string
		value func(text string) any
	}
	alone := func(text string) any { return text }
	listed := func(text string) any { return []string{"https://canary.example", text} }
	places := []place{
		{"git.repository", alone}, {"git.branch", alone}, {"git.gitUsername", alone},
		{"buildOptions.substituters", listed}, {"buildOptions.trustedPublicKeys", listed},
		{"buildOptions.cachix.target", alone}, {"buildOptions.cachix.apiKey", alone},
		{"buildOptions.cachix.signingKey", alone},
	}
	commandLines := []place{{"buildOptions.command", alone}, {"buildOptions.extraArgs", alone}}

	var jobs []refusedJob
	add := func(places []place, controls ...string) {
		for _, p := range places {
			for _, control := range controls {
				jobs = append(jobs, refusedJob{fmt.Sprintf("control: %s with %+q", p.path, control),
					jobWith(edits{p.path: p.value("https://canary.example/a" + control + "canary")}),
					notValidSchema, p.path})
			}
		}
	}
	add(places, "\x00", "\t", "\n", "\r", "\r\n", "\x01", "\x1b", "\x1f", "\x7f", "\u0080", "\u0085", "\u009f")
	add(commandLines, "\x00", "\x07", "\x1b", "\x1f", "\x7f", "\u0085", "\u009b")
	for _, text := range []string{"\x00", "\x1b", "\u0085"} {
		jobs = append(jobs, refusedJob{fmt.Sprintf("control: nix.netrc with %+q", text),
			jobWith(edits{"nix.netrc": "machine canary" + text + " password canary"}), notValidSchema, "nix.netrc"})
	}
	return append(jobs, refusedJob{"control: NUL, which no environment holds, in gitKey",
		jobWith(edits{"git.gitKey": "canary\x00"}), notValidSchema, "git.gitKey"})
}

// longest is the largest length in bytes of each text, and of each list with spaces between its texts.
var longest = map[string]int{
	"git.repository": 4 << 10, "git.branch": 4 << 10, "git.gitUsername": 4 << 10, "git.gitKey": 16 << 10,
	"buildOptions.extraArgs": 120 << 10, "buildOptions.command": 120 << 10, "buildOptions.cachix.target": 4 << 10,
	"buildOptions.cachix.apiKey": 8 << 10, "buildOptions.cachix.signingKey": 8 << 10,
	"buildOptions.substituters": 60 << 10, "buildOptions.trustedPublicKeys": 60 << 10,
	"nix.accessTokens": 16 << 10, "nix.netrc": 16 << 10, "system": 4 << 10,
}

// ofLength returns a valid value of a property with a number of bytes.
func ofLength(path string, length int) any {
	begin := map[string]string{
		"git.repository": "https://canary.example/", "buildOptions.cachix.target": "https://canary.example/",
		"buildOptions.command": "nix ", "buildOptions.substituters": "https://canary.example/ https://canary.example/",
		"nix.netrc": "machine canary password ",
	}[path]
	end := map[string]string{"buildOptions.trustedPublicKeys": ":AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}[path]
	text := begin + strings.Repeat("canary", length)[:length-len(begin)-len(end)] + end
	if path == "nix.accessTokens" {
		return map[string]string{text[:6]: text[6:]}
	}
	if path == "buildOptions.substituters" || path == "buildOptions.trustedPublicKeys" {
		return strings.Split(text, " ")
	}
	return text
}

// tooLong has some texts that are one byte too long; TestLongest has all.
func tooLong() []refusedJob {
	var jobs []refusedJob
	for _, path := range []string{"git.branch", "git.gitKey", "buildOptions.cachix.apiKey", "buildOptions.cachix.signingKey",
		"nix.accessTokens", "nix.netrc"} {
		jobs = append(jobs, refusedJob{"too long: " + path, jobWith(edits{path: ofLength(path, longest[path]+1)}), notValidSchema, path})
	}
	return jobs
}

func badRepositories() []refusedJob {
	var jobs []refusedJob
	for _, repository := range []string{
		"canary", "/canary", "./canary", "../canary", "~/canary", "canary/repository", ".", `C:\canary`, "C:/canary",
		"file:///canary", "file://localhost/canary", "FILE:///canary", "file:canary",
		"ext::sh -c canary", "ext::canary", "EXT::canary", "fd::17/canary", "http::https://canary.example/r",
		"ssh::canary", "https:canary", "https:/canary", "https:///canary",
		"-canary", "--upload-pack=canary", "-u@canary.example:r", "-oProxyCommand=canary", "git@-oProxyCommand=canary:r",
		"ssh://-oProxyCommand=canary/r", "ssh://git@-oProxyCommand=canary/r",
		"ftp://canary.example/r", "ftps://canary.example/r", "rsync://canary.example/r", "git+ssh://canary.example/r",
		"github:canary/r", "git+https://canary.example/r", "data:canary", "javascript:canary",
		"https://user:canary@canary.example/r", "http://:canary@canary.example/r",
		"ssh://git:canary@canary.example/r", "git://u:canary@canary.example/r", "user:canary@canary.example:r",
		"canary.example:r", "git@canary.example", "git@canary.example:", "@canary.example:r", "git@:canary",
		"://canary.example/r", "//canary.example/r", " https://canary.example/r", "https://canary.example:port/r",
		"https://canary%zz.example/r", "https://canary.example/r?token=canary", "ssh://git@canary.example/r#canary",
	} {
		jobs = append(jobs,
			refusedJob{"repository: " + repository, jobWith(edits{"git.repository": repository}),
				notValidSchema, "git.repository"})
	}
	return append(jobs, refusedJob{"repository: line end in the user",
		jobWith(edits{"git.repository": "https://canary%0Acanary@canary.example/r", "git.gitUsername": missing}),
		notValidSchema, "git."})
}

func badSubstituters() []refusedJob {
	var jobs []refusedJob
	for _, substituter := range []string{
		"canary", "canary.example", "/nix/canary", "./canary", "daemon", "auto", "local?root=/canary", "ftp://canary.example",
		"https:canary", "https:///canary", "https://", "s3:///canary", "https://canary.example/a https://canary.example/b",
		"https://canary.example/#canary", "https://canary.example/ca nary", "https://user:canary@canary.example", "://canary",
		"https://canary%zz.example",
	} {
		jobs = append(jobs, refusedJob{"substituter: " + substituter,
			jobWith(edits{"buildOptions.substituters": []string{"https://canary.example", substituter}}),
			notValidSchema, "buildOptions.substituters"})
	}
	return jobs
}

func badKeys() []refusedJob {
	var jobs []refusedJob
	for _, key := range []string{
		"canary", ":", "canary:", "canary:bm9uZQ==", ":AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "canary:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "ca nary:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
		"#canary:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "canary:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= canary-2:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "canary:" + strings.Repeat("A", 86) + "==",
	} {
		jobs = append(jobs, refusedJob{"key: " + key,
			jobWith(edits{"buildOptions.trustedPublicKeys": []string{"canary-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", key}}),
			notValidSchema, "buildOptions.trustedPublicKeys"})
	}
	return jobs
}

func badTokens() []refusedJob {
	var jobs []refusedJob
	for host, token := range sorted(map[string]string{
		"": "canary", "https://canary.example": "canary", "canary.example/": "canary", "canary example": "canary", "canary=example": "canary",
		"#canary": "canary", "-canary": "canary", "canary.example/../x y": "canary", "canary.example": "", "canary.one": "ca nary",
		"canary.two": "canary\ncanary", "canary.three": "canary#canary", "canary.four": "canary\x00", "canary.example:port": "canary",
	}) {
		jobs = append(jobs, refusedJob{fmt.Sprintf("token: %q for %q", token, host),
			jobWith(edits{"nix.accessTokens": map[string]string{"canary.fine": "canary", host: token}}), notValidSchema, "nix.accessTokens"})
	}
	for _, value := range []string{`null`, `[]`, `"canary"`, `{"canary": null}`, `{"canary": ["canary"]}`, `{"canary": 31337}`, `{"canary": {}}`} {
		jobs = append(jobs, refusedJob{"token: " + value, jobWith(edits{"nix.accessTokens": literal(value)}), notValidSchema, "nix.accessTokens"})
	}
	return jobs
}

func badNetrcs() []refusedJob {
	var jobs []refusedJob
	for _, netrc := range []string{
		"canary", "canary canary", "machine", "machine canary login", "machine canary password", "login canary password canary",
		"password canary", "machine canary canary canary", "machine canary macdef canary", "https://canary:canary@canary.example",
	} {
		jobs = append(jobs, refusedJob{"netrc: " + netrc, jobWith(edits{"nix.netrc": netrc}), notValidSchema, "nix.netrc"})
	}
	return jobs
}

func badTargets() []refusedJob {
	var jobs []refusedJob
	for _, target := range []string{
		"canary", "/canary", "canary.example/default", "//canary.example/default", "ftp://canary.example/default",
		"file:///canary/default", "ssh://canary.example/default", "s3://canary/default", "https:canary", "https:///canary",
		"https://canary.example", "https://canary.example/", "http://canary.example//", "https://canary.example/default//",
		"https://canary.example/?canary", "https://canary.example/default?canary=1", "https://canary.example/#canary",
		"https://canary.example/default#canary", "https://canary.example/default?", "https://canary.example/default#",
		"https://canary.example/..", "https://canary.example/-canary", "https://canary.example/can ary",
		"https://user:canary@canary.example/default", "https://canary.example:port/default", "-canary",
	} {
		jobs = append(jobs, refusedJob{"target: " + target,
			jobWith(edits{"buildOptions.cachix.target": target, "buildOptions.cachix.push": true}),
			notValidSchema, "buildOptions.cachix.target"})
	}
	return jobs
}

func badCommands() []refusedJob {
	var jobs []refusedJob
	for _, command := range []string{
		"make canary", "canary", "sh -c 'nix build'", "nixos-rebuild canary", "Nix build .#canary", "nix-buildcanary",
		"/nix/var/canary/nix build", "./nix build .#canary", "NIX_CONFIG=canary nix build", "nix; canary", "nix\u00a0build canary",
		`"nix build" canary`, `'' nix canary`, `-nix canary`, "<canary> & nix", "", " ", `''`,
	} {
		jobs = append(jobs, refusedJob{"command: " + command, jobWith(edits{"buildOptions.command": command}),
			"Invalid command: '" + command + "'", "buildOptions.command"})
	}
	return append(jobs,
		refusedJob{"command: a secret without end", jobWith(edits{"buildOptions.command": "nix build https://canary:" + strings.Repeat("canary", 20_000) + "@canary.example"}),
			notValidSchema, "buildOptions.command"},
		refusedJob{"arguments: open quote", jobWith(edits{"buildOptions.extraArgs": `--option canary "`}),
			notValidSchema, "buildOptions.extraArgs"})
}
