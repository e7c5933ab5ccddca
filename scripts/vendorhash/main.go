// Vendorhash checks the vendorHash of nix/package.nix. nixpkgs' buildGoModule compares this hash with that of the folder
// that 'go mod vendor' makes, as a Nix archive.
//
//	go run ./scripts/vendorhash          fails if the hash is wrong
//	go run ./scripts/vendorhash -write   writes the right hash
package main

import (
	"crypto/sha256"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"iglu.sh/builder/internal/nar"
)

func main() {
	write := flag.Bool("write", false, "write the right hash")
	flag.Parse()
	do := check
	if *write {
		do = update
	}
	if err := do("."); err != nil {
		fmt.Fprintln(os.Stderr, "vendorhash:", err)
		os.Exit(1)
	}
}

// packageFile is the file with the hash, in the folder of the module.
const packageFile = "nix/package.nix"

var hashForm = regexp.MustCompile(`(?m)^(\s*vendorHash = )"(.*)";$`)

// check returns an error if the hash in the package is not that of the modules which the module in a folder needs.
func check(folder string) error {
	text, err := os.ReadFile(filepath.Join(folder, packageFile))
	if err != nil {
		return err
	}
	found := hashForm.FindSubmatch(text)
	if found == nil {
		return fmt.Errorf("%s has no line 'vendorHash = \"…\";'", packageFile)
	}
	hash, err := vendorHash(folder)
	if err != nil {
		return err
	}
	if string(found[2]) != hash {
		return fmt.Errorf("the modules have changed: vendorHash in %s is %q, and has to be %q"+
			"\nhint: go run ./scripts/vendorhash -write", packageFile, found[2], hash)
	}
	return nil
}

// update writes the hash.
func update(folder string) error {
	hash, err := vendorHash(folder)
	if err != nil {
		return err
	}
	name := filepath.Join(folder, packageFile)
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return os.WriteFile(name, hashForm.ReplaceAll(text, []byte(`${1}"`+hash+`";`)), 0o644)
}

// vendorHash returns the hash of the modules that the packages and tests of a module import, in the format of Subresource
// Integrity.
func vendorHash(folder string) (string, error) {
	temp, err := os.MkdirTemp("", "vendorhash-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	vendor := filepath.Join(temp, "vendor")
	command := exec.Command("go", "mod", "vendor", "-o", vendor)
	command.Dir = folder
	command.Env = append(os.Environ(), "GOWORK=off")
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go mod vendor: %w: %s", err, output)
	}
	digest := sha256.New()
	if err := nar.Dump(digest, vendor); err != nil {
		return "", err
	}
	return "sha256-" + base64.StdEncoding.EncodeToString(digest.Sum(nil)), nil
}
