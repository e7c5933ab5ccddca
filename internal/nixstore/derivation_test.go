package nixstore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/nix-community/go-nix/pkg/derivation"
)

// ofNix is what nix-instantiate (2.34.8) has written of a derivation that needs two.
const ofNix = `Derive([("out","/nix/store/02l3ccdlijvrw6bbkkp549hl7yhisi1n-top","","")],` +
	`[("/nix/store/0l9pcz5zqqw3k08mfzhs8w8l324m1ylb-b.drv",["dev","out"]),("/nix/store/rn2bqx01d7nflvz6mmiq5kqb3pdq703d-c.drv",["out"])],` +
	`[],"x86_64-linux","/bin/sh",["-c","echo \"[(\" > $out"],[("builder","/bin/sh"),("name","top"),` +
	`("out","/nix/store/02l3ccdlijvrw6bbkkp549hl7yhisi1n-top"),("system","x86_64-linux")])`

// fixed is of one with a hash, which needs none, as far as it is read.
const fixed = `Derive([("out","/nix/store/02l3ccdlijvrw6bbkkp549hl7yhisi1n-a.tar","r:sha256","00")],[],`

// floating is of one whose output is known only when it is built.
const floating = `Derive([("out","","r:sha256","")],[],`

func TestParseDerivation(t *testing.T) {
	for text, want := range map[string]Derivation{
		ofNix: {
			Outputs: []string{"/nix/store/02l3ccdlijvrw6bbkkp549hl7yhisi1n-top"},
			Inputs: []string{"/nix/store/0l9pcz5zqqw3k08mfzhs8w8l324m1ylb-b.drv",
				"/nix/store/rn2bqx01d7nflvz6mmiq5kqb3pdq703d-c.drv"},
		},
		fixed:    {Outputs: []string{"/nix/store/02l3ccdlijvrw6bbkkp549hl7yhisi1n-a.tar"}},
		floating: {Outputs: []string{""}},
	} {
		got, err := parseDerivation([]byte(text))
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", text, err, diff)
		}
	}
	for _, broken := range []string{
		``, `Derive`, `Derive([],[]`, ` Derive([],[],`, `Derive([] ,[],`, `Derive([("out","","")],[],`, `Derive([("out","a","","")],[],`,
		`Derive([("out","","",""),],[],`, `Derive([("out","\n","","")],[],`, `DrvWithVersion("xp-dyn-drv",[],[],`,
		strings.Replace(ofNix, "-b.drv", "-b", 1), strings.Replace(ofNix, "-b.drv", "-/b.drv", 1),
		strings.Replace(ofNix, `["dev","out"]`, `(["out"],[])`, 1), ofNix[:100],
	} {
		if got, err := parseDerivation([]byte(broken)); err == nil {
			t.Errorf("%s is %+v", broken, got)
		}
	}
}

// FuzzParseDerivation holds it against another parser, which reads all of the file: what that
// takes, so does this, and to the same.
func FuzzParseDerivation(f *testing.F) {
	for _, seed := range []string{ofNix, fixed, floating, `Derive([],[],[],"","",[],[])`, `Derive([("out","/nix/store/`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := parseDerivation(text)
		for _, input := range got.Inputs {
			if !IsDerivation(input) {
				t.Errorf("%q is needed", input)
			}
		}
		oracle, refused := derivation.ReadDerivation(bytes.NewReader(text))
		if refused != nil {
			return
		}
		for input := range oracle.InputDerivations {
			if !IsDerivation(input) {
				return // of which the other has another idea
			}
		}
		if err != nil || len(got.Inputs) != len(oracle.InputDerivations) || len(got.Outputs) != len(oracle.Outputs) {
			t.Fatalf("%s: %+v, %v, want %+v", text, got, err, oracle)
		}
		for _, input := range got.Inputs {
			if oracle.InputDerivations[input] == nil {
				t.Errorf("%s is needed, but not in %+v", input, oracle.InputDerivations)
			}
		}
		for _, output := range oracle.Outputs {
			if !slices.Contains(got.Outputs, output.Path) {
				t.Errorf("%s is built, but not in %+v", output.Path, got.Outputs)
			}
		}
	})
}

// store writes files of a store and returns it.
func store(t *testing.T, files map[string]string) Files {
	t.Helper()
	f := Files{Root: t.TempDir()}
	for path, text := range files {
		path = f.Root + path
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestFiles(t *testing.T) {
	const there, locked, none = "/nix/store/a", "/nix/store/b", "/nix/store/c"
	packed, err := os.ReadFile("testdata/log.bz2") // 30 numbered lines, a long one, and one without an end
	if err != nil {
		t.Fatal(err)
	}
	const drv, unlogged, torn = "/nix/store/0123-a.drv", "/nix/store/0124-b.drv", "/nix/store/0125-c.drv"
	f := store(t, map[string]string{
		there: "", locked: "", locked + ".lock": "", none + ".lock": "",
		drv:                                     ofNix + strings.Repeat(" ", 2*maxFile),
		torn:                                    ofNix[:200],
		"/nix/var/log/nix/drvs/01/23-a.drv.bz2": string(packed),
		"/nix/var/log/nix/drvs/01/25-c.drv.bz2": string(packed[:len(packed)/2]),
	})
	for path, want := range map[string]bool{there: true, locked: false, none: false, "/nix/store/d": false} {
		if f.Has(path) != want {
			t.Errorf("%s is there: %v, want %v", path, !want, want)
		}
	}
	if d, err := f.Derivation(drv); err != nil || len(d.Inputs) != 2 {
		t.Errorf("%+v, %v", d, err)
	}
	for _, drv := range []string{torn, unlogged} {
		if d, err := f.Derivation(drv); err == nil {
			t.Errorf("%s is %+v", drv, d)
		}
		if err := f.Log(drv, func(string, bool) {}); err == nil {
			t.Errorf("there is a log of %s", drv)
		}
	}
	var log strings.Builder
	if err := f.Log(drv, func(part string, goesOn bool) {
		log.WriteString(part)
		if !goesOn {
			log.WriteByte('\n')
		}
	}); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(log.String(), "\n"); len(lines) != 33 || lines[29] != "line 29" || lines[31] != "end" {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
}

// Nix can be told not to compress logs.
func TestLogUncompressed(t *testing.T) {
	f := store(t, map[string]string{"/nix/var/log/nix/drvs/01/23-a.drv": "one\ntwo"})
	var lines []string
	if err := f.Log("/nix/store/0123-a.drv", func(part string, _ bool) { lines = append(lines, part) }); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(lines, "|"); got != "one|two" {
		t.Errorf("%q", got)
	}
}

// A long line is not split in the middle of a character.
func TestLogOfLongCharacters(t *testing.T) {
	packed, err := os.ReadFile("testdata/unicode.bz2")
	if err != nil {
		t.Fatal(err)
	}
	f := store(t, map[string]string{"/nix/var/log/nix/drvs/01/23-a.drv.bz2": string(packed)})
	var log strings.Builder
	err = f.Log("/nix/store/0123-a.drv", func(part string, goesOn bool) {
		if !utf8.ValidString(part) || len(part) > maxPart {
			t.Errorf("a part of %d bytes that ends in %q", len(part), part[len(part)-4:])
		}
		log.WriteString(part)
	})
	if want := "a" + strings.Repeat("é€🦊", 20_000) + "end"; err != nil || log.String() != want {
		t.Errorf("%d bytes, want %d; %v", log.Len(), len(want), err)
	}
}
