package schemas

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// The tables of jobs are in the format Document. This file has them in the format Stack, and jobs that only this
// format can have.

var (
	forms     = []Format{Document, Stack}
	formNames = map[Format]string{Document: "document", Stack: "stack"}
)

func refusedIn(form Format) []refusedJob {
	if form == Document {
		return append(refusedJobs(), bothForms()...)
	}
	return slices.Concat(translatedRefusals(), strayInStack(), wrongTypesInStack(), wrongSubstituters(), halfCachix())
}

func acceptedIn(form Format) []acceptedJob {
	if form == Document {
		return acceptedJobs()
	}
	var jobs []acceptedJob
	for _, job := range acceptedJobs() {
		if data, ok := translated(job.data); ok {
			jobs = append(jobs, acceptedJob{job.name, data, job.want})
		}
	}
	return append(jobs, stackJobs()...)
}

// stackJob sets every property of the format Stack, with the values of validJob.
const stackJob = `{
  "git_config": {
    "id": 1,
    "builder_id": 2,
    "repository": "https://canary.example/repository",
    "branch": "canary-branch",
    "gitusername": "canary-user",
    "gitkey": "canary-git-key",
    "requiresauth": true,
    "noclone": false
  },
  "builder": {
    "id": 2,
    "cache_id": 3,
    "name": "canary-name",
    "description": "canary description",
    "enabled": true,
    "trigger": "canary-trigger",
    "cron": "* * * * canary",
    "arch": "canary-arch",
    "webhookurl": "https://canary.example/webhook"
  },
  "build_options": {
    "id": 4,
    "builder_id": 2,
    "cores": 4,
    "maxjobs": 2,
    "keep_going": true,
    "extraargs": "--option canary 1",
    "substituters": [
      { "url": "https://canary.example/a", "public_signing_keys": ["canary-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] },
      { "url": "https://canary.example/b", "public_signing_keys": [] }
    ],
    "parallelbuilds": true,
    "command": "nix build .#canary"
  },
  "cachix_config": {
    "id": 5,
    "builder_id": 2,
    "push": false,
    "target": "https://canary.example/default",
    "apikey": "canary-api-key",
    "apikeyid": 6,
    "signingkey": "canary-signing-key",
    "signingkeyid": 7,
    "buildoutputdir": "./canary"
  },
  "nix": {
    "accessTokens": { "canary.example": "canary-token", "canary.example/group": "PAT:canary-pat" },
    "netrc": "machine canary.example login canary password canary-password"
  }
}`

// leastStackJob has only the required properties.
const leastStackJob = `{"git_config": {"noclone": true}, "build_options": {"command": "nix"}, "cachix_config": {}}`

// emptyStackJob has every property that can be empty, and each is empty.
const emptyStackJob = `{
  "git_config": {"repository": "", "branch": "", "gitusername": "", "gitkey": "", "requiresauth": false, "noclone": true},
  "builder": {"name": "", "description": "", "trigger": "", "cron": "", "arch": "", "webhookurl": ""},
  "build_options": {"extraargs": "", "command": "nix", "substituters": [{"url": "", "public_signing_keys": [""]}]},
  "cachix_config": {"push": false, "target": "", "apikey": "", "signingkey": "", "buildoutputdir": ""}
}`

func stackJobs() []acceptedJob {
	least := func(r *Request) { *r = Request{Git: Git{NoClone: true}, BuildOptions: BuildOptions{Command: "nix"}} }
	substituters := func(json string) string {
		return strings.Replace(leastStackJob, `"nix"`, `"nix", "substituters": `+json, 1)
	}
	const canary1, canary2 = "canary-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "canary-2:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	const canary3 = "canary-3:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	return []acceptedJob{
		{"every property", stackJob, func(r *Request) { r.Arch = "canary-arch" }},
		{"only the required", leastStackJob, least},
		{"empty strings throughout", emptyStackJob, least},
		{"no push, and a target", strings.Replace(stackJob, `"push": false,`, ``, 1), func(r *Request) {
			r.Arch = "canary-arch"
			r.BuildOptions.Cachix.Push = true
		}},
		{"push is true", strings.Replace(stackJob, `"push": false`, `"push": true`, 1), func(r *Request) {
			r.Arch = "canary-arch"
			r.BuildOptions.Cachix.Push = true
		}},
		{"no push, and nothing to push to", strings.Replace(emptyStackJob, `"push": false, `, ``, 1), least},
		{"numbers of no concern", strings.Replace(stackJob, `"id": 4`, `"id": -4.5e300`, 1), func(r *Request) { r.Arch = "canary-arch" }},
		{"no substituters", substituters(`[]`), least},
		{"empty substituters", substituters(`[{}, {"url": ""}, {"public_signing_keys": []}, {"public_signing_keys": [""]}]`), least},
		{"more of a substituter", substituters(`[{"id": 1, "url": "https://canary.example", "name": null, "URL": {"url": 1}}]`), func(r *Request) {
			least(r)
			r.BuildOptions.Substituters = []string{"https://canary.example"}
		}},
		{"union of the substituters' keys", substituters(fmt.Sprintf(`[{"url": "https://a", "public_signing_keys": [%q, %q]}, `+
			`{"public_signing_keys": [%q]}, {"url": "https://a", "public_signing_keys": [%q, %q, %q]}]`,
			canary2, canary1, canary1, canary2, "", canary3)), func(r *Request) {
			least(r)
			r.BuildOptions.Substituters = []string{"https://a"}
			r.BuildOptions.TrustedPublicKeys = []string{canary2, canary1, canary3}
		}},
		{"the document's keys deeper", strings.Replace(leastStackJob, `{`, `{"canary": {"git": {}, "buildOptions": 1}, `, 1), least},
	}
}

// bothForms has jobs with properties of both formats. They count as jobs of the format Document.
func bothForms() []refusedJob {
	with := func(job, more string) string { return strings.Replace(job, `{`, `{`+more+`, `, 1) }
	return []refusedJob{
		{"both: jobs", strings.TrimSuffix(strings.TrimSpace(jobWith(edits{"nix": missing})), "}") + "," + strings.TrimPrefix(stackJob, "{"), notValidSchema, "git_config"},
		{"both: git_config", with(validJob, `"git_config": {"noclone": true}`), notValidSchema, "git_config"},
		{"both: build_options", with(validJob, `"build_options": null`), notValidSchema, "build_options"},
		{"both: cachix_config", with(validJob, `"cachix_config": {}`), notValidSchema, "cachix_config"},
		{"both: git", with(stackJob, `"git": {"noClone": true}`), notValidSchema, "git"},
		{"both: buildOptions", with(stackJob, `"buildOptions": null`), notValidSchema, "buildOptions"},
		{"both: one of each", `{"git": {"noClone": true}, "build_options": {"command": "nix"}}`, notValidSchema, "build_options"},
		{"an empty substituter", jobWith(edits{"buildOptions.substituters": []string{""}}), notValidSchema, "buildOptions.substituters"},
		{"an empty key", jobWith(edits{"buildOptions.trustedPublicKeys": []string{""}}), notValidSchema, "buildOptions.trustedPublicKeys"},
		{"a builder alone", `{"builder": {}}`, notValidSchema, "git"},
	}
}

// todays are the names in the format Stack that differ in more than the case of letters.
var todays = map[string]string{"keep_going": "keep_going", "git": "git_config", "buildOptions": "build_options", "cachix": "cachix_config"}

// todaysPath returns the path in the format Stack of a property of the format Document.
func todaysPath(path string) string {
	if path == "buildOptions.trustedPublicKeys" {
		return "build_options.substituters.public_signing_keys"
	}
	if strings.HasPrefix(path, "nix") { // which both formats have
		return path
	}
	names := strings.Split(strings.Replace(path, "buildOptions.cachix", "cachix", 1), ".")
	for i, name := range names {
		if names[i] = todays[name]; names[i] == "" {
			names[i] = strings.ToLower(name)
		}
	}
	return strings.Join(names, ".")
}

// translated returns a job of the format Document in the format Stack, or false if that is not possible.
func translated(data string) (string, bool) {
	var job map[string]json.RawMessage
	if _, ok := oneDocument([]byte(data)); !ok || json.Unmarshal([]byte(data), &job) != nil {
		return "", false
	}
	git, hasGit := job["git"]
	options, hasOptions := job["buildOptions"]
	delete(job, "git")
	delete(job, "buildOptions")
	if hasGit {
		job["git_config"] = renamed(git)
	}
	var properties map[string]json.RawMessage
	if json.Unmarshal(options, &properties) == nil && properties != nil {
		if cachix, ok := properties["cachix"]; ok {
			job["cachix_config"] = renamed(cachix)
		}
		if !joinSubstituters(properties) {
			return "", false
		}
		delete(properties, "cachix")
		options = encode(properties)
	}
	if hasOptions {
		job["build_options"] = renamed(options)
	}
	return string(encode(job)), hasGit || hasOptions
}

// renamed returns an object with its known names in lower case, and anything else as it is.
func renamed(raw json.RawMessage) json.RawMessage {
	var properties map[string]json.RawMessage
	if json.Unmarshal(raw, &properties) != nil || properties == nil {
		return raw
	}
	for _, name := range []string{"noClone", "gitUsername", "gitKey", "requiresAuth", "maxJobs", "extraArgs", "apiKey", "signingKey"} {
		if value, ok := properties[name]; ok {
			delete(properties, name)
			properties[strings.ToLower(name)] = value
		}
	}
	return encode(properties)
}

// joinSubstituters puts the keys of the format Document into the first substituter of the format Stack.
func joinSubstituters(properties map[string]json.RawMessage) bool {
	type substituter struct {
		URL               string   `json:"url"`
		PublicSigningKeys []string `json:"public_signing_keys"`
	}
	var urls, keys []string
	for name, list := range map[string]*[]string{"substituters": &urls, "trustedPublicKeys": &keys} {
		raw, ok := properties[name]
		if ok && (json.Unmarshal(raw, list) != nil || *list == nil) || strings.Contains(string(raw), "null") {
			return false
		}
		delete(properties, name)
	}
	var joined []substituter
	for _, url := range urls {
		joined = append(joined, substituter{URL: url, PublicSigningKeys: []string{}})
	}
	if len(keys) > 0 {
		joined = append(joined, substituter{PublicSigningKeys: keys})
	}
	if joined != nil {
		properties["substituters"] = encode(joined)
	}
	return true
}

func translatedRefusals() []refusedJob {
	var jobs []refusedJob
	for _, job := range refusedJobs() {
		data, ok := translated(job.data)
		// Each format has its own unknown properties, and only Document requires push.
		if !ok || strings.HasPrefix(job.name, "stray:") || job.name == "missing: buildOptions.cachix.push" {
			continue
		}
		jobs = append(jobs, refusedJob{job.name, data, job.error, todaysPath(job.property)})
	}
	return jobs
}

// stackWith returns stackJob with a property set to a value. The property may be new.
func stackWith(path string, value any) string {
	var job map[string]any
	if err := json.Unmarshal([]byte(stackJob), &job); err != nil {
		panic(err)
	}
	object, name, _ := strings.Cut(path, ".")
	job[object].(map[string]any)[name] = value
	return string(encode(job))
}

func strayInStack() []refusedJob {
	var jobs []refusedJob
	for object, names := range sorted(map[string][]string{
		"git_config":    {"canary", "", "push", "cache_id", "Repository", "noClone", "gitKey", "repo\u017fitory", "git_config"},
		"builder":       {"canary", "", "push", "builder_id", "Arch", "createdat"},
		"build_options": {"canary", "", "push", "cachix", "cache_id", "trustedPublicKeys", "maxJobs", "\u212aeep_going", "url"},
		"cachix_config": {"canary", "", "command", "apiKey", "Push", "noclone"},
	}) {
		for _, name := range names {
			jobs = append(jobs, refusedJob{"stray: " + object + "." + name, stackWith(object+"."+name, canary), notValidSchema, object})
		}
	}
	return jobs
}

// halfCachix has jobs without the property push, with some of the properties that a push needs: they push, and are
// refused because of the missing ones.
func halfCachix() []refusedJob {
	with := func(config string) string {
		return strings.Replace(leastStackJob, `"cachix_config": {}`, `"cachix_config": `+config, 1)
	}
	return []refusedJob{
		{"no push, a key alone", with(`{"apikey": "canary"}`), notValidSchema, "cachix_config.target"},
		{"no push, a signing key alone", with(`{"signingkey": "canary"}`), notValidSchema, "cachix_config.target"},
		{"no push, a target alone", with(`{"target": "https://host.example/default"}`), notValidSchema, "cachix_config.apikey"},
	}
}

// wrongTypesInStack has each property that only the format Stack has, with wrong types.
func wrongTypesInStack() []refusedJob {
	kinds := map[string][]string{
		"number": {"git_config.id", "git_config.builder_id", "builder.id", "builder.cache_id", "build_options.id", "build_options.builder_id",
			"cachix_config.id", "cachix_config.builder_id", "cachix_config.apikeyid", "cachix_config.signingkeyid"},
		"string": {"builder.name", "builder.description", "builder.trigger", "builder.cron", "builder.arch", "builder.webhookurl",
			"cachix_config.buildoutputdir"},
		"boolean": {"builder.enabled", "build_options.parallelbuilds"},
		"array":   {"build_options.substituters"},
	}
	values := map[string]any{"null": nil, "object": edits{}, "array": []any{}, "number": literal(canaryNumber), "boolean": true, "string": canary}
	var jobs []refusedJob
	for kind, paths := range sorted(kinds) {
		for _, path := range paths {
			for other, value := range sorted(values) {
				if other != kind {
					jobs = append(jobs, refusedJob{"type: " + path + " as " + other, stackWith(path, value), notValidSchema, path})
				}
			}
		}
	}
	for _, value := range []any{nil, []any{}, 1, true, canary} {
		jobs = append(jobs, refusedJob{fmt.Sprintf("type: builder as %v", value),
			strings.Replace(leastStackJob, "{", `{"builder": `+string(encode(value))+`, `, 1), notValidSchema, "builder"})
	}
	return append(jobs, refusedJob{"number: an id of no size", stackWith("git_config.id", literal("1e999")), notValidSchema, "git_config.id"})
}

func wrongSubstituters() []refusedJob {
	const path = "build_options.substituters"
	var jobs []refusedJob
	for value, property := range sorted(map[string]string{
		`["https://canary.example"]`: path, `[null]`: path, `[[]]`: path, `[1]`: path, `[{}, "canary"]`: path,
		`[{"url": null}]`: path + ".url", `[{"url": 31337}]`: path + ".url", `[{"url": ["canary"]}]`: path + ".url",
		`[{"public_signing_keys": null}]`:                        path + ".public_signing_keys",
		`[{"public_signing_keys": "canary"}]`:                    path + ".public_signing_keys",
		`[{"public_signing_keys": ["canary", null]}]`:            path + ".public_signing_keys",
		`[{"public_signing_keys": [["canary"]]}]`:                path + ".public_signing_keys",
		`[{"public_signing_keys": [{}]}]`:                        path + ".public_signing_keys",
		`[{"url": "https://canary.example\nx = y"}]`:             path,
		`[{"public_signing_keys": ["canary\npost-build-hook"]}]`: path + ".public_signing_keys",
	}) {
		jobs = append(jobs, refusedJob{"substituters: " + value, stackWith(path, literal(value)), notValidSchema, property})
	}
	return jobs
}

// A refusal of a job in the format Stack has only the names of that format.
func TestStackNames(t *testing.T) {
	for _, job := range refusedIn(Stack) {
		_, _, err := ParseRequest([]byte(job.data), allowedCommands)
		for _, name := range []string{"buildOptions", "git.", "noClone", "gitKey", "requiresAuth", "apiKey", "signingKey", "maxJobs", "extraArgs", "trustedPublicKeys"} {
			if err != nil && strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", job.name, err)
			}
		}
	}
}

// A property that is ignored and is a number may be any number, and nothing else.
func TestStackNumbers(t *testing.T) {
	for id, want := range map[string]string{
		"0": "", "9": "", "-1": "", "0.5": "", "1e3": "", "1e999": "request refused: git_config.id: is too large a number",
		`"1"`: "request refused: git_config.id: must be a number", "null": "request refused: git_config.id: must be a number",
		"true": "request refused: git_config.id: must be a number", "{}": "request refused: git_config.id: must be a number",
	} {
		_, _, err := ParseRequest([]byte(`{"git_config":{"id":`+id+`,"noclone":true},"build_options":{"command":"nix"},"cachix_config":{"push":false}}`), allowedCommands)
		if got := fmt.Sprint(err); err == nil && want != "" || err != nil && got != want {
			t.Errorf("%s: %s, want %q", id, got, want)
		}
	}
}
