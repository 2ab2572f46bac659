// Command yr is the whole system in one file: the daemon, its parent, and the
// commands that start, stop and question it. What it does depends on the name
// by which it is called, as busybox does.
package main

import (
	"os"
	"path/filepath"

	"yr/cmd"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = "0.1.0-dev"

func main() {
	os.Exit(cmd.Main(filepath.Base(os.Args[0]), os.Args[1:], version))
}
