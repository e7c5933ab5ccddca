package schemas

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The oracle is another library that validates with the published schemas. It passes the whole official test suite
// of the draft that they use.

func oracle(t testing.TB, schema []byte) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("schema.json", document); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// requestOracles are the oracles for jobs, by format.
func requestOracles(t testing.TB) map[Format]*jsonschema.Schema {
	return map[Format]*jsonschema.Schema{Document: oracle(t, RequestSchema), Stack: oracle(t, StackRequestSchema)}
}

// verdict is what refused a job, if anything.
type verdict string

const (
	accepted        verdict = "accepted"
	refusedAsJSON   verdict = "refused as no JSON"
	refusedBySchema verdict = "refused by the schema"
	refusedByRule   verdict = "refused by a rule beyond the schema"
)

// expected returns the verdict of the published schema alone. If it accepts the job, a rule may still refuse it.
func expected(request map[Format]*jsonschema.Schema, data []byte) verdict {
	document, ok := oneDocument(data)
	switch {
	case !ok:
		return refusedAsJSON
	case request[expectedForm(document)].Validate(document) != nil:
		return refusedBySchema
	default:
		return accepted
	}
}

// expectedForm returns the format of a job.
func expectedForm(document any) Format {
	job, _ := document.(map[string]any)
	for _, name := range []string{"git_config", "build_options", "cachix_config"} {
		if _, ok := job[name]; ok {
			return Stack
		}
	}
	return Document
}

// oneDocument decodes data if it is one JSON document in UTF-8 without duplicate
// names.
func oneDocument(data []byte) (document any, ok bool) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil || !utf8.Valid(data) {
		return nil, false
	}
	// In a document a colon follows every name. A decoder keeps one of two equal names in an object.
	return document, colons(data) == names(document)
}

// colons counts the colons in a JSON document, except those in strings.
func colons(data []byte) int {
	n, inString := 0, false
	for i := 0; i < len(data); i++ {
		switch {
		case inString && data[i] == '\\':
			i++
		case data[i] == '"':
			inString = !inString
		case data[i] == ':' && !inString:
			n++
		}
	}
	return n
}

// names counts the names of all objects in a document.
func names(document any) int {
	n := 0
	switch document := document.(type) {
	case map[string]any:
		n = len(document)
		for _, value := range document {
			n += names(value)
		}
	case []any:
		for _, value := range document {
			n += names(value)
		}
	}
	return n
}

// actual returns ParseRequest's verdict, and its refusal if there is one.
func actual(t *testing.T, data []byte) (verdict, *Refusal) {
	t.Helper()
	request, _, err := ParseRequest(data, allowedCommands)
	if (request == nil) != (err != nil) {
		t.Fatalf("ParseRequest returned %v and error %v: one of both must be nil", request, err)
	}
	if err == nil {
		return accepted, nil
	}
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		t.Fatalf("ParseRequest returned %T, want a *Refusal", err)
	}
	switch refusal.kind {
	case notJSON:
		return refusedAsJSON, refusal
	case badSchema:
		return refusedBySchema, refusal
	default:
		return refusedByRule, refusal
	}
}

// checkVerdict compares the two. A job that does not match the schema may also break a rule.
func checkVerdict(t *testing.T, request map[Format]*jsonschema.Schema, data []byte) *Refusal {
	t.Helper()
	want := expected(request, data)
	got, refusal := actual(t, data)
	agree := got == want || got == refusedByRule && want != refusedAsJSON
	if !agree {
		t.Errorf("ParseRequest: %s (%v); the published schema: %s\n%q", got, refusal, want, data)
	}
	if want == refusedBySchema && refusal != nil && refusal.Response().Error != notValidSchema {
		t.Errorf("the schema is not met and the client is told %q\n%q", refusal.Response().Error, data)
	}
	return refusal
}

func TestOracle(t *testing.T) {
	request := requestOracles(t)
	for _, data := range allJobs() {
		checkVerdict(t, request, []byte(data))
	}
}

// allJobs returns the jobs of the tables in both formats.
func allJobs() []string {
	var jobs []string
	for _, form := range forms {
		for _, job := range refusedIn(form) {
			jobs = append(jobs, job.data)
		}
		for _, job := range acceptedIn(form) {
			jobs = append(jobs, job.data)
		}
	}
	return jobs
}

// The table must contain jobs with every verdict, or the oracle checks nothing.
func TestOracleIsAsked(t *testing.T) {
	request := requestOracles(t)
	for form, verdicts := range map[Format][]verdict{
		Document: {accepted, refusedAsJSON, refusedBySchema},
		Stack:    {accepted, refusedBySchema}, // data that is not JSON has no format
	} {
		asked := make(map[verdict]int)
		for _, job := range refusedIn(form) {
			asked[expected(request, []byte(job.data))]++
		}
		for _, v := range verdicts {
			if asked[v] < 40 {
				t.Errorf("%s: only %d refused jobs of the table are, by the schema alone, %s", formNames[form], asked[v], v)
			}
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, data := range allJobs() {
		f.Add([]byte(data))
	}
	request := requestOracles(f)
	response := map[Format]*jsonschema.Schema{Document: oracle(f, ResponseSchema), Stack: oracle(f, StackResponseSchema)}
	f.Fuzz(func(t *testing.T, data []byte) {
		refusal := checkVerdict(t, request, data)
		if refusal == nil {
			return
		}
		for form, schema := range response {
			checkResponse(t, form, schema, refusal.Response())
		}
		if said := refusal.Error() + refusal.Response().Msg; strings.Contains(said, canary) {
			t.Errorf("a value of the request is repeated: %s", said)
		}
	})
}

// Very deeply nested JSON is refused, or accepted in a property that is ignored, but does not crash the server.
func TestDeepNesting(t *testing.T) {
	request := requestOracles(t)
	const depth = 100_000
	for _, value := range []string{
		strings.Repeat("[", depth),
		strings.Repeat("[", depth) + strings.Repeat("]", depth),
		strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth),
	} {
		checkVerdict(t, request, []byte(value))
		checkVerdict(t, request, []byte(replaced(`"git": {`, `"canary": `+value+`, "git": {`)))
		checkVerdict(t, request, []byte(replaced(`"canary-branch"`, value)))
		checkVerdict(t, request, []byte(strings.Replace(stackJob, `"git_config": {`, `"canary": `+value+`, "git_config": {`, 1)))
		checkVerdict(t, request, []byte(strings.Replace(stackJob, `"canary-branch"`, value, 1)))
		checkVerdict(t, request, []byte(strings.Replace(stackJob, `"url": `, `"canary": `+value+`, "url": `, 1)))
	}
}
