package jobrun

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/jobenv"
)

const someKey = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

func TestParseFlakeConfig(t *testing.T) {
	for text, want := range map[string]trust{
		`{}`: {},
		`{"extra-substituters":["https://b","https://a"],"trusted-public-keys":"a:` + someKey + ` b:` + someKey + `","bash-prompt":"x","sandbox":false}`: {
			[]string{"https://a", "https://b"}, []string{"a:" + someKey, "b:" + someKey}},
		`{"substituters":["https://a","https://a","https://u:p@b","/nix/x","https://c d"],"extra-trusted-public-keys":["none",""]}`: {[]string{"https://a"}, nil},
		`{"substituters":3,"trusted-public-keys":{"a":1},"extra-substituters":"https://a\nextra = 1"}`:                              {[]string{"https://a"}, nil},
	} {
		got, err := parseFlakeConfig(text)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(trust{})); diff != "" || err != nil {
			t.Errorf("%s: error %v (-want +got):\n%s", text, err, diff)
		}
	}
	for _, text := range []string{"", "[]", "error: no"} {
		if _, err := parseFlakeConfig(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

// A store is for jobs that trust everything that earlier jobs in it trusted.
func TestAgree(t *testing.T) {
	s := store{root: t.TempDir()}
	for _, step := range []struct {
		trusts []string
		ok     bool
	}{
		{nil, true}, {[]string{"a"}, true}, {[]string{"a"}, true}, {nil, false}, {[]string{"b"}, false}, {[]string{"a", "b"}, true},
		{[]string{"a"}, false}, {[]string{"a", "b"}, true},
	} {
		err := s.agree(step.trusts)
		if _, unusable := errors.AsType[errUnusable](err); unusable == step.ok || err == nil != step.ok {
			t.Errorf("%q: error %v", step.trusts, err)
		}
	}
	if err := replaceFile(s.root+"/"+trustFile, []byte("no JSON")); err != nil {
		t.Fatal(err)
	}
	if _, unusable := errors.AsType[errUnusable](s.agree([]string{"a", "b"})); !unusable {
		t.Error("a store of which it is not known what was trusted in it is used")
	}
}

// If Nix requires no signatures, what it trusts are the substituters, those of the request included.
func TestAgreedWithoutSignatures(t *testing.T) {
	key := "a:" + someKey
	job := jobenv.Job{DaemonConfig: "build-dir = /x\nextra-substituters = https://b https://c?trusted=1\n"}
	flakes := newTrust([]string{"https://a", "https://d?trusted=1"}, []string{key})
	for conf, want := range map[string][]string{
		"":                      {key, "https://d?trusted=1"},
		"require-sigs = true":   {key, "https://d?trusted=1"},
		"require-sigs = false":  {key, "https://a", "https://b", "https://c?trusted=1", "https://d?trusted=1"},
		"require-sigs = no\n\n": {key, "https://a", "https://b", "https://c?trusted=1", "https://d?trusted=1"},
	} {
		if diff := cmp.Diff(want, agreed(job, flakes, conf)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", conf, diff)
		}
	}
}

// If the image enables content-addressed derivations, a job begins only with a store that no earlier job has used.
func TestForgeable(t *testing.T) {
	const enabled = "extra-experimental-features = ca-derivations\n"
	for _, test := range []struct {
		store, others string
		ok            bool
	}{
		{jobenv.StoreUsed, enabled, false}, {jobenv.StoreFresh, enabled, true}, {"", enabled, true},
		{jobenv.StoreUsed, "extra-experimental-features = flakes\n", true}, {jobenv.StoreUsed, "", true},
	} {
		err := checkForgeable(jobenv.Job{Store: test.store}, test.others)
		if _, unusable := errors.AsType[errUnusable](err); unusable == test.ok || (err == nil) != test.ok {
			t.Errorf("%+v: error %v", test, err)
		}
	}
}

func TestTrust(t *testing.T) {
	a, b := "a:"+someKey, "b:"+someKey
	both := newTrust([]string{"https://b?trusted=1"}, []string{b, "no key", "c\ntrusted-users = *:" + someKey}).and(newTrust([]string{"https://a", "https://c d"}, []string{a, b}))
	if diff := cmp.Diff([]string{a, b, "https://b?trusted=1"}, both.words()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, want := both.settings(), "extra-substituters = https://a https://b?trusted=1\nextra-trusted-public-keys = "+a+" "+b+"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := (trust{}).settings(); got != "" {
		t.Errorf("of nobody: %q", got)
	}
}
