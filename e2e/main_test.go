package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

var (
	// binary is the cridock under test.
	binary string
	// workDir holds the binary and all nodes.
	workDir string
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := runMoreTestsAtOnce(); err != nil {
		os.Exit(fail(err))
	}
	os.Exit(runTests(m))
}

// runMoreTestsAtOnce triples Go's default, one test a processor: most of the time these
// tests wait for a process that waits, too. It leaves -parallel as it is.
func runMoreTestsAtOnce() error {
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if chosen {
		return nil
	}
	return flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0)))
}

// runTests builds cridock once and removes the shared nodes at the end;
// leftovers on them fail the run.
func runTests(m *testing.M) (code int) {
	engine := os.Getenv("CRIDOCK_E2E_DOCKER")
	if engine == "" {
		return m.Run() // every test is skipped
	}
	var err error
	// Below the engine's own directory, which hack/test.sh removes even if this
	// process crashes.
	workDir, err = os.MkdirTemp(filepath.Dir(strings.TrimPrefix(engine, "unix://")), "e2e.")
	if err != nil {
		return fail(err)
	}
	defer func() {
		if err := os.RemoveAll(workDir); err != nil && code == 0 {
			code = fail(err)
		}
	}()
	if binary, err = build(workDir); err != nil {
		return fail(err)
	}
	code = m.Run()
	if err := closeShared(); err != nil {
		return fail(err)
	}
	return code
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "e2e:", err)
	return 1
}

// build compiles cridock, with the race detector if there is a C compiler and
// nothing is to be measured.
func build(dir string) (string, error) {
	path := filepath.Join(dir, "cridock")
	args := []string{"build", "-o", path}
	measured := flag.Lookup("test.bench").Value.String() != ""
	if cgo, err := exec.Command("go", "env", "CGO_ENABLED").Output(); err == nil && !measured && strings.TrimSpace(string(cgo)) == "1" {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/cridock")...)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build cridock: %w\n%s", err, out)
	}
	return path, nil
}

// needEngine skips a test outside hack/test.sh's environment.
func needEngine(t testing.TB) {
	t.Helper()
	if os.Getenv("CRIDOCK_E2E_DOCKER") == "" {
		t.Skip("CRIDOCK_E2E_DOCKER is not set; hack/test.sh sets it")
	}
}
