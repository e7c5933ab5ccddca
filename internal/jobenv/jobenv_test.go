package jobenv

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// values are values of a field, the most difficult first.
var values = []string{
	"a = b=c\n\"d\" 'e' $F \\g\t枝\xff\n",
	"-----BEGIN OPENSSH PRIVATE KEY-----\nkey\n-----END OPENSSH PRIVATE KEY-----\n",
	"=", " ", "\n",
	"IGLU_GIT_KEY=not this one",
	"plain",
}

// eachField calls do for each field of Job, with its name and a Job in which only this field is set.
func eachField(value string, do func(name string, job Job)) {
	fields := reflect.TypeFor[Job]()
	for i := range fields.NumField() {
		var job Job
		reflect.ValueOf(&job).Elem().Field(i).SetString(value)
		do(fields.Field(i).Name, job)
	}
}

// fullJob returns a job whose fields all differ.
func fullJob() Job {
	var job Job
	fields := reflect.ValueOf(&job).Elem()
	for i := range fields.NumField() {
		fields.Field(i).SetString("value of " + fields.Type().Field(i).Name)
	}
	return job
}

func TestRoundTripOfEachField(t *testing.T) {
	for _, value := range values {
		eachField(value, func(name string, want Job) {
			environ := want.Environ()
			set := slices.DeleteFunc(slices.Clone(environ), func(v string) bool {
				_, value, _ := strings.Cut(v, "=")
				return value == ""
			})
			if len(set) != 1 {
				t.Errorf("%s: environment %q, want one variable that is set", name, environ)
			}
			got, rest := Parse(environ)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s as %q (-want +got):\n%s", name, value, diff)
			}
			wantRest := []string{"NIX_CONFIG="}
			if name == "NixConfig" {
				wantRest = []string{"NIX_CONFIG=" + value}
			}
			if diff := cmp.Diff(wantRest, rest); diff != "" {
				t.Errorf("%s: rest (-want +got):\n%s", name, diff)
			}
		})
	}
}

func TestRoundTripAmongOthers(t *testing.T) {
	others := []string{"PATH=/bin", "HOME=/root", "EMPTY=", "A=b=c", "IGLU_OTHER=x", "iglu_git_key=y", "IGLU_GIT_KEY_=z",
		"CACHIX_NAME=n", "NOTHING"}
	want := fullJob()
	got, rest := Parse(slices.Concat(others[:4], want.Environ(), others[4:]))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("job (-want +got):\n%s", diff)
	}
	wantRest := slices.Concat(others[:4], []string{"NIX_CONFIG=" + want.NixConfig}, others[4:])
	if diff := cmp.Diff(wantRest, rest); diff != "" {
		t.Errorf("rest (-want +got):\n%s", diff)
	}
}

// The environment of a job's child processes has nothing of the job except NIX_CONFIG.
func TestSecretsStayOut(t *testing.T) {
	job := fullJob()
	_, rest := Parse(job.Environ())
	for _, secret := range []string{job.GitKey, job.AccessTokens, job.Netrc, job.EventsToken, job.CacheToken, job.SigningKey} {
		if strings.Contains(strings.Join(rest, "\n"), secret) {
			t.Errorf("%q is in the rest: %q", secret, rest)
		}
	}
	// If a variable is given twice, both must be removed.
	_, rest = Parse([]string{"IGLU_GIT_KEY=first", "IGLU_GIT_KEY=second", "IGLU_GIT_KEY", "CACHIX_AUTH_TOKEN="})
	if len(rest) > 0 {
		t.Errorf("rest is %q, want none", rest)
	}
}

func TestEmptyJob(t *testing.T) {
	// A job image may have variables of these names: they are set to the empty string.
	for _, variable := range (Job{}).Environ() {
		if !strings.HasSuffix(variable, "=") {
			t.Errorf("%q is set", variable)
		}
	}
	job, rest := Parse(nil)
	if job != (Job{}) || len(rest) > 0 {
		t.Errorf("job %+v and rest %q, want none", job, rest)
	}
}

// Each field is in the table once, under a name of its own.
func TestTable(t *testing.T) {
	var names []string
	eachField("x", func(field string, job Job) {
		for _, variable := range job.Environ() {
			if name, value, _ := strings.Cut(variable, "="); value != "" {
				names = append(names, name)
			}
		}
	})
	want := []string{
		"IGLU_REPOSITORY", "IGLU_NO_CLONE", "IGLU_BRANCH", "IGLU_GIT_DEPTH", "IGLU_FETCH_TIMEOUT", "IGLU_CPUS",
		"IGLU_SYSTEM", "IGLU_NIX_CONF", "IGLU_ACCESS_TOKENS", "IGLU_NETRC", "IGLU_ACCEPT_FLAKE_CONFIG", "IGLU_STORE_OF_ALL", "IGLU_COLORS", "IGLU_GIT_USERNAME", "IGLU_GIT_KEY", "IGLU_COMMAND",
		"IGLU_EXTRA_ARGS", "IGLU_CACHE_TARGET", "IGLU_PUSH_UPLOADS", "IGLU_PUSH_PART_BYTES", "IGLU_UPSTREAM_KEYS", "IGLU_MAINTENANCE",
		"IGLU_NIX_VERSION", "IGLU_JOB_USER", "IGLU_DAEMON_CONFIG", "IGLU_STORE_STATE", "IGLU_BUILD_ID", "IGLU_EVENTS_TOKEN", "CACHIX_AUTH_TOKEN", "CACHIX_SIGNING_KEY", "NIX_CONFIG",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

// Access tokens are one setting of Nix: HOST=TOKEN, separated by spaces, in the order of the hosts.
func TestTokens(t *testing.T) {
	tokens := map[string]string{"gitlab.example": "PAT:a=b==", "github.com": "t0ken", "forge.example/org": "c"}
	const joined = "forge.example/org=c github.com=t0ken gitlab.example=PAT:a=b=="
	if got := JoinTokens(tokens); got != joined {
		t.Errorf("joined: %q, want %q", got, joined)
	}
	if got := JoinTokens(nil); got != "" {
		t.Errorf("none joined: %q", got)
	}
	for text, want := range map[string]map[string]string{
		joined:                                tokens,
		"":                                    {},
		" \n github.com=a\tother.example=b\n": {"github.com": "a", "other.example": "b"},
		"github.com=a github.com=b":           {"github.com": "b"},
		"no-token github.com=a":               {"github.com": "a"},
	} {
		if diff := cmp.Diff(want, SplitTokens(text)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

func TestDocumentation(t *testing.T) {
	const file = "../../docs/job-environment.md"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	job := fullJob()
	for _, f := range job.fields() {
		if !strings.Contains(string(text), "`"+f.name+"`") {
			t.Errorf("%s does not name `%s`", file, f.name)
		}
	}
	for _, lifeline := range []string{fmt.Sprintf("every %v s.", Heartbeat.Seconds()), fmt.Sprintf("nothing has come for %v s", Silence.Seconds())} {
		if !strings.Contains(string(text), lifeline) {
			t.Errorf("%s does not say %q", file, lifeline)
		}
	}
}
