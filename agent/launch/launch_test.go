package launch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"yr/pkg/yr"
)

// patience bounds every wait: far more than anything here takes.
const patience = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fixture is an open launcher whose workers run the program in $WORK.
type fixture struct {
	t  testing.TB
	l  *Launcher
	mu sync.Mutex

	started map[yr.ID]int
	refused map[yr.ID]error
	exits   map[yr.ID]Exit
	changed chan struct{} // closed and replaced at every callback
}

func newFixture(t testing.TB, edit ...func(*Options)) *fixture {
	f := &fixture{t: t, started: map[yr.ID]int{}, refused: map[yr.ID]error{}, exits: map[yr.ID]Exit{}, changed: make(chan struct{})}
	dir := t.TempDir()
	opt := Options{
		Socket: filepath.Join(dir, "yr.sock"), SDKDir: testSDK(t),
		LogDir: filepath.Join(dir, "logs"), RunDir: filepath.Join(dir, "run"),
		Log: zerolog.Nop(), DefaultInterpreter: python3(t),
		OnStarted: func(id yr.ID, pid int, err error) {
			f.change(func() {
				if err != nil {
					f.refused[id] = err
				} else {
					f.started[id] = pid
				}
			})
		},
		OnExit: func(e Exit) { f.change(func() { f.exits[e.Worker] = e }) },
	}
	for _, e := range edit {
		e(&opt)
	}
	before := descriptors(t)
	f.l = New(opt)
	require.NoError(t, f.l.Open(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, f.l.Close(ctx))
		require.Empty(t, children(t), "processes are left")
		require.LessOrEqual(t, len(descriptors(t)), len(before), "descriptors are left: %v, before: %v", descriptors(t), before)
		left, _ := filepath.Glob(filepath.Join(opt.RunDir, "*"))
		require.Empty(t, left, "run files are left")
	})
	return f
}

// testSDK is a directory with the real template and a stand-in for the rest of the SDK.
func testSDK(t testing.TB) string {
	dir := t.TempDir()
	worker := filepath.Join(dir, "yr", "_worker")
	require.NoError(t, os.MkdirAll(worker, 0o755))
	for to, from := range map[string]string{
		filepath.Join(worker, "template.py"): "../../sdk/python/yr/_worker/template.py",
		filepath.Join(worker, "main.py"):     "testdata/main.py",
		filepath.Join(worker, "__init__.py"): "",
		filepath.Join(dir, "yr/__init__.py"): "",
	} {
		var body []byte
		if from != "" {
			var err error
			body, err = os.ReadFile(from)
			require.NoError(t, err)
		}
		require.NoError(t, os.WriteFile(to, body, 0o600))
	}
	return dir
}

// python3 skips the test where there is none.
func python3(t testing.TB) string {
	candidates := newPython(Options{Env: os.Environ()}).fallback
	if len(candidates) == 0 {
		t.Skip("no python3 on PATH")
	}
	return candidates[0]
}

func (f *fixture) change(how func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how()
	close(f.changed)
	f.changed = make(chan struct{})
}

// await waits until a callback has made done true.
func (f *fixture) await(what string, done func() bool) {
	f.t.Helper()
	timeout := time.After(patience)
	for {
		f.mu.Lock()
		ok, changed := done(), f.changed
		f.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			f.t.Fatalf("%s: not within %v; started %v, refused %v, exits %v", what, patience, f.started, f.refused, f.exits)
		}
	}
}

// start asks for a worker that runs the Python program work.
func (f *fixture) start(work string, edit ...func(*Spec)) yr.ID {
	spec := Spec{Worker: yr.NewID(), Token: "secret", Job: "job-00000001", Note: "pool", Env: map[string]string{"WORK": work}}
	for _, e := range edit {
		e(&spec)
	}
	f.l.Start(spec)
	return spec.Worker
}

func (f *fixture) pid(id yr.ID) int {
	f.t.Helper()
	var pid int
	var refused error
	f.await("start of "+id.String(), func() bool {
		pid, refused = f.started[id], f.refused[id]
		return pid != 0 || refused != nil
	})
	require.NoError(f.t, refused)
	return pid
}

func (f *fixture) exit(id yr.ID) Exit {
	f.t.Helper()
	f.pid(id)
	return f.ended(id)
}

func (f *fixture) ended(id yr.ID) (exit Exit) {
	f.t.Helper()
	f.await("exit of "+id.String(), func() bool {
		exit = f.exits[id]
		return exit.Text != ""
	})
	return exit
}

func (f *fixture) refusal(id yr.ID) error {
	f.t.Helper()
	var pid int
	var refused error
	f.await("refusal of "+id.String(), func() bool {
		pid, refused = f.started[id], f.refused[id]
		return pid != 0 || refused != nil
	})
	require.Zero(f.t, pid, "it started")
	return refused
}

func (f *fixture) output(id yr.ID, ext string) string {
	body, err := os.ReadFile(filepath.Join(f.l.opt.LogDir, "runtime-"+id.String()+ext))
	require.NoError(f.t, err)
	return string(body)
}

// says waits until the worker has printed something that ends in a newline.
func (f *fixture) says(id yr.ID) string {
	f.t.Helper()
	f.pid(id)
	var out string
	eventually(f.t, "output of "+id.String(), func() bool {
		body, _ := os.ReadFile(filepath.Join(f.l.opt.LogDir, "runtime-"+id.String()+".out"))
		out = string(body)
		return strings.HasSuffix(out, "\n")
	})
	return strings.TrimSpace(out)
}

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func children(t testing.TB) []int {
	found := []int{}
	entries, err := os.ReadDir("/proc")
	require.NoError(t, err)
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if st, err := readStat(pid); err == nil && st.parent == os.Getpid() {
				found = append(found, pid)
			}
		}
	}
	return found
}

func descriptors(t testing.TB) []string {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	var found []string
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.Contains(to, "eventpoll") && !strings.Contains(to, "eventfd") {
			found = append(found, to)
		}
	}
	return found
}

func alive(pid int) bool {
	st, err := readStat(pid)
	return err == nil && !st.zombie
}

func TestExitStatusIsExact(t *testing.T) {
	f := newFixture(t)
	for work, want := range map[string]Exit{
		"pass":                                   {Code: 0, Text: "exit code 0"},
		"import sys; sys.exit(3)":                {Code: 3, Text: "exit code 3"},
		"import os; os._exit(4)":                 {Code: 4, Text: "exit code 4"},
		"raise ValueError('no')":                 {Code: 1, Text: "exit code 1"},
		"import os; os.kill(os.getpid(), 9)":     {Code: -1, Signal: unix.SIGKILL, Text: "killed by SIGKILL"},
		"import os; os.kill(os.getpid(), 15)":    {Code: -1, Signal: unix.SIGTERM, Text: "killed by SIGTERM"},
		"import ctypes; ctypes.string_at(0)":     {Code: -1, Signal: unix.SIGSEGV, Text: "killed by SIGSEGV"},
		"import os; os.abort()":                  {Code: -1, Signal: unix.SIGABRT, Text: "killed by SIGABRT"},
		"import os, time; os.setpgid(0, 0) or 1": {Code: 1, Text: "exit code 1"}, // a session leader cannot
	} {
		t.Run(work, func(t *testing.T) {
			id := f.start(work)
			want.Worker, want.PID = id, f.pid(id)
			require.Equal(t, want, f.exit(id))
		})
	}
}

func TestWorkerFindsItselfAsSpecified(t *testing.T) {
	f := newFixture(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "user_module.py"), []byte("answer = 42\n"), 0o600))
	id := f.start(`
import json, os, sys, user_module
print("warning", file=sys.stderr)
print(json.dumps({
    "worker": worker, "token": token, "socket": socket, "cwd": os.getcwd(), "argv": sys.argv,
    "path0": sys.path[0], "answer": user_module.answer, "sid": os.getsid(0), "pid": os.getpid(),
    "env": {k: os.environ.get(k) for k in ("INSTANCE_ID", "YR_RUNTIME_ID", "YR_JOB_ID", "NODE_ID", "OMP_NUM_THREADS")},
    "fds": sorted(os.readlink("/proc/self/fd/%d" % n) for n in range(16) if os.path.exists("/proc/self/fd/%d" % n)),
    "threads": len(os.listdir("/proc/self/task")), "oom": int(open("/proc/self/oom_score_adj").read()),
}))
`, func(s *Spec) {
		s.Dir, s.CodePaths = dir, []string{dir}
		s.Env["NODE_ID"] = "node-1"
	})
	pid := f.pid(id)
	require.Equal(t, "exit code 0", f.exit(id).Text, f.output(id, ".err"))
	var saw struct {
		Worker, Token, Socket, Cwd, Path0 string
		Argv, Fds                         []string
		Env                               map[string]*string
		Answer, Sid, Pid, Threads         int
		Oom                               int
	}
	require.NoError(t, json.Unmarshal([]byte(f.output(id, ".out")), &saw))
	require.Equal(t, id.String(), saw.Worker)
	require.Equal(t, "secret", saw.Token)
	require.Equal(t, f.l.opt.Socket, saw.Socket)
	require.Equal(t, dir, saw.Cwd)
	require.Equal(t, dir, saw.Path0)
	require.Equal(t, []string{"yr-worker", id.String()}, saw.Argv)
	require.Equal(t, 42, saw.Answer)
	require.Equal(t, pid, saw.Pid)
	require.Equal(t, pid, saw.Sid, "a session of its own")
	require.Equal(t, id.String(), *saw.Env["INSTANCE_ID"])
	require.Equal(t, id.String(), *saw.Env["YR_RUNTIME_ID"])
	require.Equal(t, "job-00000001", *saw.Env["YR_JOB_ID"])
	require.Equal(t, "node-1", *saw.Env["NODE_ID"])
	require.Nil(t, saw.Env["OMP_NUM_THREADS"], "what the template sets for its imports does not show")
	require.Equal(t, 1, saw.Threads)
	require.Equal(t, 900, saw.Oom)
	log := filepath.Join(f.l.opt.LogDir, "runtime-"+id.String())
	require.Equal(t, []string{"/dev/null", log + ".err", log + ".out"}, saw.Fds, "no other descriptors")
	require.Equal(t, "warning\n", f.output(id, ".err"))
}

func TestWorkersShareNoRandomStream(t *testing.T) {
	f := newFixture(t)
	const draw = `
import random, time
print(random.random())
try:
    import numpy
    print(numpy.random.random(), numpy.random.default_rng().random())
except ImportError:
    pass
`
	seen := map[string]bool{}
	for range 8 {
		id := f.start(draw)
		require.Equal(t, "exit code 0", f.exit(id).Text)
		for _, number := range strings.Fields(f.output(id, ".out")) {
			require.False(t, seen[number], "%s was drawn twice", number)
			seen[number] = true
		}
	}
}

func TestExecTimeVariablesMakeAnotherTemplate(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Env = append(os.Environ(), "BASE=/base", "LD_LIBRARY_PATH=/was") })
	templates := func() int {
		f.l.mu.Lock()
		defer f.l.mu.Unlock()
		return len(f.l.templates)
	}
	printed := func(name string, env map[string]string) string {
		return f.says(f.start("import os; print(os.environ.get('"+name+"'), flush=True)", func(s *Spec) {
			for k, v := range env {
				s.Env[k] = v
			}
		}))
	}
	require.Equal(t, "x", printed("ORDINARY", map[string]string{"ORDINARY": "x"}))
	require.Equal(t, 1, templates())
	require.Equal(t, "2", printed("OMP_NUM_THREADS", map[string]string{"OMP_NUM_THREADS": "2"}))
	require.Equal(t, 2, templates())
	require.Equal(t, "/base/lib:/code:/was",
		printed("LD_LIBRARY_PATH", map[string]string{"LD_LIBRARY_PATH": "${BASE}/lib:${CODE}:${LD_LIBRARY_PATH}", "CODE": "/code"}))
	require.Equal(t, 3, templates())
	require.Equal(t, "y", printed("ORDINARY", map[string]string{"ORDINARY": "y"}))
	require.Equal(t, 3, templates())
	id := f.start("import time; print(time.strftime('%Z'), flush=True)", func(s *Spec) { s.Env["TZ"] = "XYZ-3" })
	require.Equal(t, "XYZ", f.says(id))
}

func TestKillEndsTheWholeGroup(t *testing.T) {
	f := newFixture(t)
	id := f.start(`
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import subprocess, sys, time; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); time.sleep(600)"])
time.sleep(600)
`)
	grandchild, err := strconv.Atoi(f.says(id))
	require.NoError(t, err)
	require.True(t, alive(grandchild))
	f.l.Kill(id)
	require.Equal(t, "killed by SIGKILL", f.exit(id).Text)
	eventually(t, "end of the grandchild", func() bool { return !alive(grandchild) })
	eventually(t, "reaping of the orphans", func() bool { return len(children(t)) == 1 }) // the template
}

func TestWhatAWorkerLeavesBehindEndsWithIt(t *testing.T) {
	f := newFixture(t)
	id := f.start(`
import os, subprocess
print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
os._exit(0)
`)
	child, err := strconv.Atoi(f.says(id))
	require.NoError(t, err)
	require.Equal(t, "exit code 0", f.exit(id).Text)
	eventually(t, "end of the child", func() bool { _, err := readStat(child); return err != nil })
}

func TestCloseEndsWhatHasLeftTheGroup(t *testing.T) {
	f := newFixture(t)
	id := f.start(`
import os, subprocess
print(subprocess.Popen(["setsid", "sleep", "600"]).pid, flush=True)
os._exit(0)
`)
	child, err := strconv.Atoi(f.says(id))
	require.NoError(t, err)
	f.exit(id)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, f.l.Close(ctx))
	require.False(t, alive(child))
}

func TestKillBeforeTheStart(t *testing.T) {
	f := newFixture(t)
	id := f.start("import time; time.sleep(600)")
	f.l.Kill(id)
	var refused error
	f.await("an answer", func() bool {
		refused = f.refused[id]
		return refused != nil || f.exits[id].Text != ""
	})
	if refused != nil {
		require.Equal(t, yr.ScheduleCancelled, yr.CodeOf(refused))
	}
}

func TestTemplateKilledWhileIdleIsReplaced(t *testing.T) {
	f := newFixture(t)
	f.exit(f.start("pass"))
	old := children(t)
	require.Len(t, old, 1)
	require.NoError(t, unix.Kill(old[0], unix.SIGKILL))
	require.Equal(t, "exit code 0", f.exit(f.start("pass")).Text)
	eventually(t, "another template", func() bool { now := children(t); return len(now) == 1 && now[0] != old[0] })
}

func TestHungTemplateFailsItsOrdersAndIsReplaced(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.ForkTimeout = 200 * time.Millisecond })
	f.exit(f.start("pass"))
	hung := children(t)
	require.Len(t, hung, 1)
	require.NoError(t, unix.Kill(hung[0], unix.SIGSTOP))
	err := f.refusal(f.start("pass"))
	require.Equal(t, yr.WorkerLost, yr.CodeOf(err))
	require.ErrorContains(t, err, "did not answer within 200ms")
	eventually(t, "end of the hung template", func() bool { return !alive(hung[0]) })
	eventually(t, "a worker of the next template", func() bool {
		id := f.start("pass")
		f.await("an answer", func() bool { return f.refused[id] != nil || f.exits[id].Text != "" })
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.refused[id] == nil
	})
}

func TestInterpretersThatCannotRunWorkers(t *testing.T) {
	dir := t.TempDir()
	script := func(name, body string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o700)) //nolint:gosec // it must be executable
		return path
	}
	cases := map[string]struct {
		interpreter string
		want        []string
	}{
		"missing":         {"/no/such/python", []string{"/no/such/python", "no such file", "YR_PYTHON"}},
		"not on PATH":     {"no-such-python", []string{"no-such-python", "not found", "YR_PYTHON"}},
		"not executable":  {dir, []string{dir, "permission denied"}},
		"no cloudpickle":  {script("bare", `echo "ModuleNotFoundError: No module named 'cloudpickle'" >&2; exit 1`), []string{"bare -m pip install cloudpickle"}},
		"too old":         {script("old", `echo "Python 3.6 is too old, workers need 3.9 or newer" >&2; exit 1`), []string{"exit code 1", "Python 3.6 is too old"}},
		"speaks nonsense": {script("nonsense", `echo "0123456789" >&3; sleep 600`), []string{"nonsense"}},
		"hangs":           {script("hangs", `echo waiting for the moon >&2; sleep 600`), []string{"did not come up within", "waiting for the moon"}},
	}
	f := newFixture(t, func(o *Options) { o.StartTimeout = time.Second })
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := f.refusal(f.start("pass", func(s *Spec) { s.Interpreter = c.interpreter }))
			require.Equal(t, yr.UserCodeLoad, yr.CodeOf(err))
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
}

func TestInterpreterKilledWhileItStartsIsTriedAgain(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "python")
	body := fmt.Sprintf("#!/bin/sh\n[ -e %[1]s/once ] || { touch %[1]s/once; kill -9 $$; }\nexec %[2]s \"$@\"\n", dir, python3(t))
	require.NoError(t, os.WriteFile(path, []byte(body), 0o700)) //nolint:gosec // it must be executable
	f := newFixture(t)
	require.Equal(t, "exit code 0", f.exit(f.start("pass", func(s *Spec) { s.Interpreter = path })).Text)

	always := filepath.Join(dir, "always")
	require.NoError(t, os.WriteFile(always, []byte("#!/bin/sh\nkill -9 $$\n"), 0o700)) //nolint:gosec // it must be executable
	err := f.refusal(f.start("pass", func(s *Spec) { s.Interpreter = always }))
	require.Equal(t, yr.WorkerLost, yr.CodeOf(err), "callers may try again")
	require.ErrorContains(t, err, "killed by SIGKILL")
}

func TestFailedStartStandsForItsBackoff(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "python")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\necho x >> "+dir+"/tries\nexit 1\n"), 0o700)) //nolint:gosec // it must be executable
	f := newFixture(t)
	for range 20 {
		require.Error(t, f.refusal(f.start("pass", func(s *Spec) { s.Interpreter = path })))
	}
	tries, err := os.ReadFile(filepath.Join(dir, "tries"))
	require.NoError(t, err)
	require.Less(t, bytes.Count(tries, []byte("x")), 20)
}

func TestUnknownLanguage(t *testing.T) {
	f := newFixture(t)
	err := f.refusal(f.start("pass", func(s *Spec) { s.Language = "cobol" }))
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
	require.ErrorContains(t, err, "cobol")
}

func TestHundredWorkersAtOnce(t *testing.T) {
	f := newFixture(t)
	var ids []yr.ID
	for i := range 100 {
		ids = append(ids, f.start(fmt.Sprintf("import os; os._exit(%d)", i)))
	}
	for i, id := range ids {
		require.Equal(t, i, f.exit(id).Code)
	}
}

func TestSurvivorsAreFoundAndAdopted(t *testing.T) {
	earlier := exec.Command("sleep", "600") // what a daemon that crashed had started
	earlier.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	require.NoError(t, earlier.Start())
	pid := earlier.Process.Pid
	st, err := readStat(pid)
	require.NoError(t, err)

	f := newFixture(t)
	id := yr.NewID()
	file := runFile{Worker: id, PID: pid, StartTimeTicks: st.startTicks, Job: "job-00000001", Note: "pool"}
	reused := file
	reused.Worker, reused.StartTimeTicks = yr.NewID(), st.startTicks-1 // the pid was another process's then
	for _, r := range []runFile{file, reused} {
		body, err := json.Marshal(r)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(f.l.runPath(r.Worker), body, 0o600))
	}
	require.NoError(t, os.WriteFile(f.l.runPath(yr.NewID()), []byte("half a fi"), 0o600))
	require.NoError(t, os.WriteFile(f.l.runPath(yr.NewID())+".tmp", nil, 0o600))

	require.Equal(t, []Survivor{{Worker: id, PID: pid, Job: "job-00000001", Note: "pool"}}, f.l.Survivors())
	left, err := filepath.Glob(filepath.Join(f.l.opt.RunDir, "*"))
	require.NoError(t, err)
	require.Equal(t, []string{f.l.runPath(id)}, left, "stale files are removed")

	require.NoError(t, f.l.Adopt(id, pid))
	require.Error(t, f.l.Adopt(id, pid), "twice")
	require.Error(t, f.l.Adopt(yr.NewID(), 1<<30), "nobody has this pid")
	f.l.Kill(id)
	require.Equal(t, "killed by SIGKILL", f.ended(id).Text)
	require.NoError(t, earlier.Process.Release())
}

func TestRunFileIsThereWhileTheWorkerLives(t *testing.T) {
	f := newFixture(t)
	id := f.start("import time; time.sleep(600)")
	pid := f.pid(id)
	require.Contains(t, children(t), pid, "a child of the daemon")
	got, err := readRunFile(f.l.runPath(id))
	require.NoError(t, err)
	require.True(t, got.alive())
	require.Equal(t, runFile{id, pid, got.StartTimeTicks, "job-00000001", "pool"}, got)
	require.Empty(t, f.l.Survivors(), "it is ours, no survivor")
	f.l.Kill(id)
	f.ended(id)
	require.NoFileExists(t, f.l.runPath(id))
}

func TestNoOrderIsForgottenWhenTemplatesDie(t *testing.T) {
	f := newFixture(t)
	f.exit(f.start("pass"))
	ids := map[yr.ID]bool{}
	for round := range 25 {
		for range 8 {
			ids[f.start("import os; os._exit(0)")] = true
		}
		f.l.mu.Lock()
		for pid := range f.l.pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		f.l.mu.Unlock()
		f.await(fmt.Sprintf("answers of round %d", round), func() bool {
			for id := range ids {
				if f.refused[id] == nil && f.exits[id].Text == "" {
					return false
				}
			}
			return true
		})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, err := range f.refused {
		require.Equal(t, yr.WorkerLost, yr.CodeOf(err), "callers may try again")
		require.Zero(t, f.started[id], "refused and started")
	}
}

func TestTemplatesEndWithTheDaemon(t *testing.T) {
	f := newFixture(t)
	f.exit(f.start("pass"))
	template := children(t)[0]
	f.l.mu.Lock()
	var control *os.File
	for _, tpl := range f.l.templates {
		control = tpl.process.control
	}
	f.l.mu.Unlock()
	require.NoError(t, control.Close()) // as the kernel does when the daemon is killed
	eventually(t, "end of the template", func() bool { return !alive(template) })
}

func TestStatusOfAnothersChildIsUnknown(t *testing.T) {
	exit := reap(os.Getppid())
	require.True(t, exit.Unknown)
	require.Equal(t, -1, exit.Code)
}

// BenchmarkStart/connected is the time from Start to a worker's connection;
// /rate starts workers as fast as they come.
func BenchmarkStart(b *testing.B) {
	f := newFixture(b)
	listener, err := net.Listen("unix", f.l.opt.Socket)
	require.NoError(b, err)
	b.Cleanup(func() { _ = listener.Close() })
	const connect = "import os, socket as s; s.socket(s.AF_UNIX).connect(socket); os._exit(0)"
	f.exit(f.start("pass"))
	b.Run("connected", func(b *testing.B) {
		for b.Loop() {
			f.start(connect)
			c, err := listener.Accept()
			require.NoError(b, err)
			_ = c.Close()
		}
	})
	b.Run("rate", func(b *testing.B) {
		ids := make([]yr.ID, b.N)
		for i := range ids {
			ids[i] = f.start("import os; os._exit(0)")
		}
		for _, id := range ids {
			f.pid(id)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "workers/s")
	})
}
