package launch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"yr/pkg/yr"
)

// minPython is the oldest Python that the SDK is written for.
const minPython = "(3, 9)"

// bootstrap must parse in any Python, also one that is too old to parse the SDK.
const bootstrap = `import sys
if sys.version_info < ` + minPython + `:
    sys.exit("Python %d.%d is too old, workers need 3.9 or newer" % sys.version_info[:2])
from yr._worker.template import main
main()`

// Variables that act only when a program or its libraries are loaded: setting
// them in a forked child would come too late.
var (
	execNames    = []string{"GLIBC_TUNABLES", "LANG", "LANGUAGE", "TZ"}
	execPrefixes = []string{
		"LD_", "PYTHON", "MALLOC_", "LC_", // loader, interpreter, allocator, locale
		"OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GOTO_", "BLIS_", "NUMEXPR_", "VECLIB_", // thread pools
	}
)

func isExecVariable(name string) bool {
	return slices.Contains(execNames, name) ||
		slices.ContainsFunc(execPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// python makes Python workers. It is immutable.
type python struct {
	opt      Options
	base     map[string]string // Options.Env
	fallback []string          // interpreters for specs that name none
}

func newPython(opt Options) *python {
	p := &python{opt: opt, base: environment(opt.Env)}
	p.fallback = p.interpreters()
	return p
}

// interpreters lists what may run a Spec that names no interpreter, best first.
func (p *python) interpreters() []string {
	if p.opt.DefaultInterpreter != "" {
		return []string{p.opt.DefaultInterpreter}
	}
	if chosen := p.base["YR_PYTHON"]; chosen != "" {
		return []string{chosen}
	}
	var found []string
	for _, dir := range filepath.SplitList(p.base["PATH"]) {
		path := filepath.Join(dir, "python3")
		if _, err := exec.LookPath(path); err == nil && filepath.IsAbs(path) && !slices.Contains(found, path) {
			found = append(found, path)
		}
	}
	return found
}

func (p *python) origin(spec Spec) origin {
	special := map[string]string{}
	for name, value := range spec.Env {
		if isExecVariable(name) {
			special[name] = value
		}
	}
	for _, name := range []string{"LD_LIBRARY_PATH", "LD_PRELOAD"} {
		if value, ok := special[name]; ok {
			special[name] = p.expand(value, spec.Env)
		}
	}
	env := overlay(p.base, special)
	env["PYTHONPATH"] = joinPaths(p.opt.SDKDir, env["PYTHONPATH"])

	o := origin{
		key:      spec.Interpreter + "\x00" + strings.Join(flatten(special), "\x00"),
		ordinary: spec.Interpreter == "" && len(special) == 0,
		programs: p.fallback,
		args: func(preload bool) []string {
			return []string{"-c", bootstrap, "3", map[bool]string{true: "1", false: "0"}[preload]}
		},
		env: flatten(env),
	}
	if spec.Interpreter != "" {
		o.programs = []string{spec.Interpreter}
	}
	return o
}

// expand replaces ${VAR} as the worker will see VAR; a variable that is not set becomes empty.
func (p *python) expand(value string, env map[string]string) string {
	return os.Expand(value, func(name string) string {
		if v, ok := env[name]; ok && v != value {
			return v
		}
		return p.base[name]
	})
}

func (p *python) order(spec Spec) order {
	id := spec.Worker.String()
	env := map[string]string{
		"INSTANCE_ID":      id,
		"YR_RUNTIME_ID":    id,
		"YR_JOB_ID":        string(spec.Job),
		"PYTHONUNBUFFERED": "1",
	}
	for name, value := range spec.Env {
		if name != "PYTHONPATH" { // the template's, which has the SDK in front
			env[name] = value
		}
	}
	for _, name := range []string{"LD_LIBRARY_PATH", "LD_PRELOAD"} {
		if value, ok := env[name]; ok {
			env[name] = p.expand(value, spec.Env)
		}
	}
	paths := spec.CodePaths
	if paths == nil {
		paths = []string{}
	}
	log := filepath.Join(p.opt.LogDir, "runtime-"+id)
	return order{
		Worker: id, Token: spec.Token, Socket: p.opt.Socket,
		Out: log + ".out", Err: log + ".err",
		Env: env, Dir: spec.Dir, FallbackDir: p.opt.LogDir, Paths: paths,
	}
}

func (p *python) explain(f failure) error {
	const op = "start python"
	switch {
	case f.program == "":
		return yr.E(op, yr.ParamInvalid,
			"there is no python3 on PATH; install Python 3.9 or newer, or set YR_PYTHON to the path of an interpreter")
	case f.killed:
		return yr.E(op, yr.WorkerLost, "interpreter %s was %s while it started, %d times in a row; try again, with more memory "+
			"if there is little. %s", f.program, f.why, startTries, f.words)
	case f.words == "":
		return yr.E(op, yr.UserCodeLoad, "interpreter %s: %s; "+
			"name a Python 3.9 or newer that has cloudpickle installed, or set YR_PYTHON before yr start", f.program, f.why)
	case strings.Contains(f.words, "No module named 'cloudpickle'"):
		return yr.E(op, yr.UserCodeLoad, "interpreter %s has no cloudpickle, which workers need; "+
			"run %s -m pip install cloudpickle, or use another interpreter (YR_PYTHON)", f.program, f.program)
	default:
		return yr.E(op, yr.UserCodeLoad, "interpreter %s cannot run workers (%s); it wrote:\n%s", f.program, f.why, f.words)
	}
}

// environment reads "NAME=value" pairs; the last one of a name wins.
func environment(pairs []string) map[string]string {
	env := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		if name, value, ok := strings.Cut(pair, "="); ok {
			env[name] = value
		}
	}
	return env
}

// flatten is the inverse of environment, in order of names.
func flatten(env map[string]string) []string {
	pairs := make([]string, 0, len(env))
	for name, value := range env {
		pairs = append(pairs, fmt.Sprintf("%s=%s", name, value))
	}
	slices.Sort(pairs)
	return pairs
}

func overlay(under, over map[string]string) map[string]string {
	env := make(map[string]string, len(under)+len(over))
	for _, m := range []map[string]string{under, over} {
		for name, value := range m {
			env[name] = value
		}
	}
	return env
}

func joinPaths(first, rest string) string {
	if rest == "" {
		return first
	}
	return first + string(os.PathListSeparator) + rest
}
