// Machine is the builder of a derivation. It prints the architecture that it was compiled for, and makes the output.
package main

import (
	"fmt"
	"os"
	"runtime"
)

func main() {
	fmt.Println("built by a program for", runtime.GOARCH)
	if err := os.WriteFile(os.Getenv("out"), nil, 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
