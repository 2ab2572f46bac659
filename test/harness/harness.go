// Package harness starts real clusters for the tests of the whole system: it
// builds the yr binary once, runs Python programs against it, interrupts what a
// test wants interrupted, and compares what there was before and after.
//
// Environment:
//
//	YR_BIN          the binary to test; without it, the source tree is built
//	YR_TEST_PYTHON  the interpreter of drivers and workers; without it, .venv's or python3
package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// Patience bounds every wait of a test. Faults must end within 10 s; the rest is
// for a machine that does other things too.
const Patience = 30 * time.Second

// Root is the directory of the source tree.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Main is the TestMain of a package of system tests: it removes what Binary built.
func Main(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

var built struct {
	mu    sync.Mutex
	dir   string
	paths map[string]string // by version
}

// Binary returns the path of the yr binary under test.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("YR_BIN"); path != "" {
		return path
	}
	version, err := os.ReadFile(filepath.Join(Root(), "VERSION"))
	if err != nil {
		t.Fatal(err)
	}
	return BinaryOf(t, strings.TrimSpace(string(version)))
}

// BinaryOf returns the path of a yr binary that says it has that version.
func BinaryOf(t testing.TB, version string) string {
	t.Helper()
	built.mu.Lock()
	defer built.mu.Unlock()
	if path := built.paths[version]; path != "" {
		return path
	}
	if built.dir == "" {
		dir, err := os.MkdirTemp("", "yr-test-bin-") //nolint:usetesting // it outlives this test
		if err != nil {
			t.Fatal(err)
		}
		built.dir, built.paths = dir, map[string]string{}
	}
	path := filepath.Join(built.dir, version, "yr")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", path, ".")
	build.Dir, build.Env = Root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	built.paths[version] = path
	return path
}

var python = sync.OnceValues(func() (string, error) {
	candidates := []string{os.Getenv("YR_TEST_PYTHON"), filepath.Join(Root(), ".venv", "bin", "python"), "python3"}
	for _, c := range candidates {
		if c == "" {
			continue
		}
		out, err := exec.Command(c, "-c", "import cloudpickle, sys; print(sys.executable)").Output()
		if err == nil {
			return strings.TrimSpace(string(out)), nil
		}
	}
	return "", fmt.Errorf("none of %q can import cloudpickle; `make setup` makes .venv", candidates)
})

// Python returns the interpreter that drivers and workers run on.
func Python(t testing.TB) string {
	t.Helper()
	path, err := python()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Eventually waits until done says so, and fails the test with what it last said
// if that takes longer than Patience.
func Eventually(t testing.TB, what string, done func() (bool, string)) {
	t.Helper()
	if state, ok := within(Patience, done); !ok {
		t.Fatalf("%s: not within %v; now: %s", what, Patience, state)
	}
}

// within waits until done says so; state is what it said last.
func within(most time.Duration, done func() (ok bool, state string)) (state string, ok bool) {
	for deadline := time.Now().Add(most); ; time.Sleep(5 * time.Millisecond) {
		if ok, state = done(); ok || time.Now().After(deadline) {
			return state, ok
		}
	}
}

// tellHowToRerun prints, when the test failed, how to run it alone.
func tellHowToRerun(t testing.TB) {
	t.Cleanup(func() {
		if t.Failed() {
			here, _ := os.Getwd()
			t.Logf("again alone: go test .%s -count=1 -v -run '^%s$'", strings.TrimPrefix(here, Root()), strings.ReplaceAll(t.Name(), "/", "$/^"))
		}
	})
}
