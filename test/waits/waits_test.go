// Package waits checks that no test sleeps for a fixed time.
package waits

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Tests wait for events, because a fixed time is too short on a busy machine and too long on others. If there is no
// event, a function in test/kit polls, and its comment says why. In a bubble of testing/synctest, sleeping takes no
// real time.
func TestNoTestWaitsForATime(t *testing.T) {
	root := filepath.Join("..", "..")
	folders := make(map[string][]string)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "testdata" || path == filepath.Join(root, "test", "kit") || path != root && strings.HasPrefix(entry.Name(), ".")) {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, "_test.go") {
			folders[filepath.Dir(path)] = append(folders[filepath.Dir(path)], path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range slices.Sorted(maps.Keys(folders)) {
		files := token.NewFileSet()
		var parsed []*ast.File
		for _, name := range folders[folder] {
			file, err := parser.ParseFile(files, name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			parsed = append(parsed, file)
		}
		for _, wait := range waits(files, parsed) {
			t.Error(wait)
		}
	}
}

func TestWaits(t *testing.T) {
	const head = "package p\n"
	for name, test := range map[string]struct {
		code string
		want []string
	}{
		"in a test":              {"func TestA(t *testing.T) { time.Sleep(1) }", []string{"p_test.go:2: time.Sleep"}},
		"in a bubble":            {"func TestA(t *testing.T) { synctest.Test(t, func(t *testing.T) { time.Sleep(1) }) }", nil},
		"before a bubble":        {"func TestA(t *testing.T) { <-time.After(1); synctest.Test(t, a) }", []string{"p_test.go:2: time.After"}},
		"in a function":          {"func a() { time.Sleep(1) }\nfunc TestA(t *testing.T) { a() }", []string{"p_test.go:2: time.Sleep"}},
		"in one of a bubble":     {"func a() { time.Sleep(1) }\nfunc TestA(t *testing.T) { synctest.Test(t, func(t *testing.T) { a() }) }", nil},
		"in one of both":         {"func a() { time.Sleep(1) }\nfunc TestA(t *testing.T) { synctest.Test(t, a) }\nfunc TestB(t *testing.T) { a() }", []string{"p_test.go:2: time.Sleep"}},
		"in a method":            {"type a int\nfunc (*a) Read() { time.Tick(1) }\nfunc TestA(t *testing.T) { use(new(a)) }", []string{"p_test.go:3: time.Tick"}},
		"behind a bubble's name": {"func bubble(f func()) { synctest.Test(t, f) }\nfunc TestA(t *testing.T) { bubble(func() { time.Sleep(1) }) }", nil},
		"in a local of the name": {"func a() { time.Sleep(1) }\nfunc TestA(t *testing.T) { a := 1; use(a) }", nil},
		"behind two names":       {"func bubble(f func()) { synctest.Test(t, f) }\nfunc each(f func()) { bubble(f) }\nfunc TestA(t *testing.T) { each(func() { time.Sleep(1) }) }", nil},
		"until a time":           {"func TestA(t *testing.T) { for time.Now().Before(end) {} }", []string{"p_test.go:2: a loop until a time"}},
		"in the quick suite":     {"func TestA(t *testing.T) { fixture.Pass(1) }", []string{"p_test.go:2: fixture.Pass"}},
	} {
		t.Run(name, func(t *testing.T) {
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, "p_test.go", head+test.code, 0)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, waits(files, []*ast.File{file})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// waiting are the functions that a test may call only in a bubble.
var waiting = map[string]bool{
	"time.Sleep": true, "time.After": true, "time.AfterFunc": true, "time.Tick": true, "time.NewTicker": true, "time.NewTimer": true,
	"fixture.Pass": true, // also allowed in the long suite: see fixture.Pass
}

// mayWait reports whether a file may call a function of waiting.
func mayWait(file, function string) bool {
	switch function {
	case "fixture.Pass":
		return strings.HasSuffix(file, "_long_test.go")
	case "time.AfterFunc": // the deadlines of connections, which servers and clients set
		return strings.HasSuffix(file, "wsapi/memnet_test.go")
	}
	return false
}

// waits returns the positions at which the tests of a package sleep outside a bubble. It follows names from the tests,
// and stops at functions that start a bubble.
func waits(files *token.FileSet, parsed []*ast.File) (found []string) {
	p := read(parsed)
	bubblers := p.bubblers()
	mentioned, visited := make(map[string]bool), make(map[ast.Node]bool)
	for before := -1; before < len(mentioned); {
		before = len(mentioned)
		for declaration, needs := range p {
			if visited[declaration] || slices.ContainsFunc(needs, func(name string) bool { return !mentioned[name] }) {
				continue
			}
			visited[declaration] = true
			bubbles := begins(declaration, bubblers)
			ast.Inspect(declaration, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncLit:
					return !bubbles // the function runs in the bubble, as far as the check can see
				case *ast.SelectorExpr:
					if name := dotted(n); waiting[name] && !mayWait(files.Position(n.Pos()).Filename, name) {
						found = append(found, fmt.Sprintf("%s: %s", at(files, n), name))
					}
				case *ast.ForStmt:
					if asksTime(n.Cond) {
						found = append(found, at(files, n)+": a loop until a time")
					}
				case *ast.Ident:
					if !bubbles && !isLocal(n) {
						mentioned[n.Name] = true
					}
				}
				return true
			})
		}
	}
	slices.Sort(found)
	return found
}

// declarations are the declarations of a package. The value has the names that must be mentioned for a declaration to be
// used: its own name, and that of a method's type. Functions that are called from outside have none.
type declarations map[ast.Node][]string

func read(parsed []*ast.File) declarations {
	all := make(declarations)
	for _, file := range parsed {
		for _, declaration := range file.Decls {
			switch d := declaration.(type) {
			case *ast.FuncDecl:
				all[d] = nil
				if d.Recv != nil {
					all[d] = append(all[d], receiver(d))
				}
				if !d.Name.IsExported() && d.Name.Name != "init" {
					all[d] = append(all[d], d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.TypeSpec:
						all[s] = []string{s.Name.Name}
					case *ast.ValueSpec:
						all[s] = nil
					}
				}
			}
		}
	}
	return all
}

func at(files *token.FileSet, n ast.Node) string {
	position := files.Position(n.Pos())
	return fmt.Sprintf("%s:%d", position.Filename, position.Line)
}

// receiver returns the name of a method's type.
func receiver(method *ast.FuncDecl) (name string) {
	ast.Inspect(method.Recv.List[0].Type, func(n ast.Node) bool {
		if ident, ok := n.(*ast.Ident); ok && name == "" {
			name = ident.Name
		}
		return name == ""
	})
	return name
}

// bubblers returns the functions that call their argument in a bubble.
func (p declarations) bubblers() map[string]bool {
	all := map[string]bool{"synctest.Test": true}
	for before := 0; before < len(all); {
		before = len(all)
		for declaration := range p {
			if f, ok := declaration.(*ast.FuncDecl); ok && takesFunction(f) && begins(f, all) {
				all[f.Name.Name] = true
			}
		}
	}
	return all
}

// isLocal reports whether a name is declared inside a function.
func isLocal(name *ast.Ident) bool {
	if name.Obj == nil {
		return false
	}
	switch name.Obj.Decl.(type) {
	case *ast.FuncDecl, *ast.TypeSpec, *ast.ValueSpec:
		return false
	}
	return true
}

func takesFunction(f *ast.FuncDecl) bool {
	return slices.ContainsFunc(f.Type.Params.List, func(p *ast.Field) bool { _, ok := p.Type.(*ast.FuncType); return ok })
}

// begins reports whether a declaration begins a bubble.
func begins(declaration ast.Node, bubblers map[string]bool) (does bool) {
	ast.Inspect(declaration, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			switch f := call.Fun.(type) {
			case *ast.SelectorExpr:
				does = does || bubblers[dotted(f)] || bubblers[f.Sel.Name]
			case *ast.Ident:
				does = does || bubblers[f.Name]
			}
		}
		return !does
	})
	return does
}

func dotted(n *ast.SelectorExpr) string {
	if x, ok := n.X.(*ast.Ident); ok {
		return x.Name + "." + n.Sel.Name
	}
	return ""
}

// asksTime reports whether a condition depends on the time.
func asksTime(condition ast.Expr) (asks bool) {
	if condition == nil {
		return false
	}
	ast.Inspect(condition, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			asks = asks || dotted(selector) == "time.Now" || dotted(selector) == "time.Since"
		}
		return !asks
	})
	return asks
}
