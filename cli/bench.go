package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"yr/pkg/yr"
)

// BenchOptions say how to measure.
type BenchOptions struct {
	Python string // interpreter; empty: $YR_PYTHON, else python3 on PATH
	Args   []string
}

// Bench runs the SDK's benchmarks against this very binary and returns their
// exit status.
func Bench(ctx context.Context, opt BenchOptions, out *Output) (int, error) {
	python := opt.Python
	if python == "" {
		python = os.Getenv("YR_PYTHON")
	}
	if python == "" {
		python = "python3"
	}
	path, err := exec.LookPath(python)
	if err != nil {
		return 1, yr.E("bench", yr.ParamInvalid, "there is no Python %q on PATH; name one with --python", python)
	}
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	env := append(os.Environ(), "YR_BINARY="+self)
	if dir := sdkBeside(self); dir != "" {
		env = append(env, "PYTHONPATH="+dir+":"+os.Getenv("PYTHONPATH"))
	}
	probe := exec.CommandContext(ctx, path, "-c", "import yr._bench")
	probe.Env = env
	if text, err := probe.CombinedOutput(); err != nil {
		return 1, yr.E("bench", yr.ParamInvalid, "%s cannot import yr._bench: install the openyuanrong wheel for it, or name another with --python\n%s", path, text)
	}
	cmd := exec.CommandContext(ctx, path, append([]string{"-m", "yr._bench"}, opt.Args...)...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, os.Stdin, out.Out, out.Err
	// Ctrl-C reaches the benchmark too, being in the same process group; it ends
	// its cluster by itself and is not killed meanwhile.
	cmd.Cancel = func() error { return nil }
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(1, exit.ExitCode()), nil
	}
	return 0, err
}

// sdkBeside finds the SDK in the source tree that this binary was built in.
func sdkBeside(self string) string {
	dir := filepath.Join(filepath.Dir(filepath.Dir(self)), "sdk", "python")
	if _, err := os.Stat(filepath.Join(dir, "yr", "_bench")); err == nil {
		return dir
	}
	if _, err := os.Stat(filepath.Join(dir, "yr", "_bench.py")); err == nil {
		return dir
	}
	return ""
}
