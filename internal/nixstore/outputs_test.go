package nixstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// greeting is what a daemon says first.
var greeting = []any{daemonMagic, ourVersion, "2.34", 1, stderrLast}

// at returns a store path of a name.
func at(name string) string { return "/nix/store/" + strings.Repeat("0", 32) + "-" + name }

// storeWith writes .drv files into a store that a scripted daemon answers for.
func storeWith(t *testing.T, derivations map[string]string, answers ...any) *Store {
	t.Helper()
	store, err := Open(says(append(slices.Clone(greeting), answers...)...))
	if err != nil {
		t.Fatal(err)
	}
	store.files.Root = t.TempDir()
	for name, text := range derivations {
		writeFile(t, store.files.Root+at(name+".drv"), text)
	}
	return store
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// drvText is the text of a .drv file with an output, which may be "", and inputs.
func drvText(output string, inputs ...string) string {
	var list []string
	for _, input := range inputs {
		list = append(list, fmt.Sprintf(`("%s",["out"])`, at(input+".drv")))
	}
	return fmt.Sprintf(`Derive([("out","%s","","")],[%s],[],"x","/bin/sh",[],[])`, output, strings.Join(list, ","))
}

func TestOutputs(t *testing.T) {
	diamond := map[string]string{
		"top":   drvText(at("top"), "left", "right", "gone"),
		"left":  drvText(at("left"), "base"),
		"right": drvText(at("right"), "base"),
		"base":  drvText(at("base")),
	}
	zeros := strings.Repeat("0", 64)
	for name, test := range map[string]struct {
		derivations     map[string]string
		answers         []any
		paths, floating string
	}{
		"what they need":       {diamond, []any{stderrLast, 2, at("base"), at("top")}, "base top", ""},
		"none is valid":        {diamond, []any{stderrLast, 0}, "", ""},
		"floating":             {map[string]string{"top": drvText("", "base"), "base": drvText(at("base"))}, []any{stderrLast, 1, "", zeros, 0, 0, 0, 0, 0, "", stderrLast, 2, "out", at("top"), "doc", "", stderrLast, 1, at("base")}, "base top", "top"},
		"a form of the future": {map[string]string{"top": `DrvWithVersion("xp-dyn-drv",[])`}, []any{stderrLast, 1, "", zeros, 1, at("source"), 0, 0, 0, 0, "", stderrLast, 1, "", zeros, 0, 0, 0, 0, 0, "", stderrLast, 1, "out", at("top")}, "top", "top"},
		"one that is refused":  {map[string]string{"top": drvText("")}, []any{stderrLast, 0}, "", ""},
		"it is not there":      {nil, nil, "", ""},
	} {
		store := storeWith(t, test.derivations, test.answers...)
		got, err := store.Outputs([]string{at("top.drv")})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if names(got.Paths) != test.paths || names(got.Floating) != test.floating {
			t.Errorf("%s: got %q, want %q and of these %q", name, got, test.paths, test.floating)
		}
	}
}

func names(paths []string) string {
	var all []string
	for _, path := range paths {
		_, name, _ := strings.Cut(path, "-")
		all = append(all, name)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// A daemon that does not answer is an error, which says of what.
func TestOutputsFails(t *testing.T) {
	for name, test := range map[string]struct {
		derivation string
		answers    []any
		want       string
	}{
		"valid paths":           {drvText(at("top")), nil, "ask which paths are valid: EOF"},
		"the list of these":     {drvText(at("top")), []any{stderrLast, 2, at("top")}, "ask which paths are valid: EOF"},
		"a list without an end": {drvText(at("top")), []any{stderrLast, maxList + 1}, "a list of 16777217 strings"},
		"outputs":               {drvText(""), nil, "ask for the outputs of " + at("top.drv") + ": EOF"},
		"the map of these":      {drvText(""), []any{stderrLast, 1, "", strings.Repeat("0", 64), 0, 0, 0, 0, 0, "", stderrLast, 1, "out"}, "ask for the outputs of " + at("top.drv") + ": EOF"},
		"what Nix knows":        {"no derivation", nil, "look up " + at("top.drv") + ": EOF"},
	} {
		store := storeWith(t, map[string]string{"top": test.derivation}, test.answers...)
		if _, err := store.Outputs([]string{at("top.drv")}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %s", name, err, test.want)
		}
	}
}

// Many outputs are asked for in parts.
func TestManyOutputs(t *testing.T) {
	const n = maxQuery + 1
	derivations := make(map[string]string)
	answers := []any{stderrLast, maxQuery}
	for i := range n {
		name := fmt.Sprint("n", i)
		derivations[name] = drvText(at(name))
		if i == maxQuery {
			answers = append(answers, stderrLast, 1)
		} else {
			derivations[name] = drvText(at(name), fmt.Sprint("n", i+1))
		}
		answers = append(answers, at(name))
	}
	got, err := storeWith(t, derivations, answers...).Outputs([]string{at("n0.drv")})
	if err != nil || len(got.Paths) != n {
		t.Errorf("%d paths, %v", len(got.Paths), err)
	}
}

func TestTempRoots(t *testing.T) {
	files := Files{t.TempDir()}
	roots := func() string {
		var found []string
		files.TempRoots(func(path string) { found = append(found, path) })
		return names(found)
	}
	if got := roots(); got != "" || files.ForgetTempRoots() != nil {
		t.Errorf("got %s of no folder", got)
	}
	folder := files.Root + tempRoots
	writeFile(t, folder+"/1", at("one")+"\x00"+at("two.drv")+"\x00"+at("unfinished"))
	writeFile(t, folder+"/2", at("three")+"\x00/etc/passwd\x00\x00"+at("four")+"\x00")
	writeFile(t, folder+"/empty", "")
	writeFile(t, folder+"/a-folder/a-file", "")
	writeFile(t, files.Root+"/elsewhere", at("elsewhere")+"\x00")
	if err := errors.Join(os.Symlink(files.Root+"/elsewhere", folder+"/link"), syscall.Mkfifo(folder+"/pipe", 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, want := roots(), "four one three two.drv"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if err := files.ForgetTempRoots(); err != nil || roots() != "" {
		t.Errorf("they are still there; %v", err)
	}
	if _, err := os.Stat(files.Root + "/elsewhere"); err != nil {
		t.Error(err)
	}
}
