// Command cridock serves the Kubernetes Container Runtime Interface on top of
// Docker Engine.
package main

import (
	"os"

	"github.com/cridock/cridock/cmd/cridock/app"
)

// version is set at build time; otherwise it is the module's.
var version string

func main() { os.Exit(app.Main(version)) }
