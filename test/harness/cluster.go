package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"yr/pkg/gateway/client"
	"yr/pkg/session"
	"yr/test/harness/lab"
)

// marker is a variable in the environment of everything that a test starts; the
// kernel shows it for every process, so that none can hide by changing its parent.
const marker = "YR_TEST_CLUSTER"

var clusters atomic.Int64

// A Cluster is a prefix directory in which a test starts sessions, one at a time.
type Cluster struct {
	t       testing.TB
	name    string // value of the marker
	Prefix  string
	Session *session.File // of the last Start
	shm     []string      // of /dev/shm before

	ruins    map[string]bool // what was left when it could not tidy up
	host     *lab.Host       // where everything of it runs; nil: in the machine's own network
	mayCrash bool            // the test did something that a daemon answers by giving up
}

// New prepares a cluster that is not started. When the test ends it is stopped,
// and the test fails if anything of it is left.
func New(t testing.TB) *Cluster {
	t.Helper()
	tellHowToRerun(t)
	c := &Cluster{t: t, name: fmt.Sprintf("%d-%d", os.Getpid(), clusters.Add(1)), Prefix: t.TempDir(), shm: sharedMemory(), ruins: map[string]bool{}}
	t.Cleanup(c.mustVanish)
	return c
}

// Start starts a cluster of 4 cores and 4 GiB; more arguments of `yr start` may follow.
func Start(t testing.TB, args ...string) *Cluster {
	t.Helper()
	c := New(t)
	c.MustStart(args...)
	return c
}

// For returns the same cluster, reporting to a subtest.
func (c *Cluster) For(t testing.TB) *Cluster {
	tellHowToRerun(t)
	return c.reporting(t)
}

func (c *Cluster) reporting(t testing.TB) *Cluster {
	of := *c
	of.t = t
	return &of
}

// MustStart runs `yr start --master` and waits until it returns.
func (c *Cluster) MustStart(args ...string) {
	c.t.Helper()
	all := append([]string{"start", "--master", "-s", "values.cpu_num=4000", "-s", "values.memory_num=4096"}, args...)
	if r := c.Yr(all...); r.Code != 0 {
		c.t.Fatalf("yr start: %s", r)
	}
	c.Attach()
}

// Attach finds the session that something else than MustStart has started in Prefix.
func (c *Cluster) Attach() {
	c.t.Helper()
	var err error
	if c.Session, err = session.Latest(c.Prefix); err != nil {
		c.t.Fatal(err)
	}
}

// API returns a client of the daemon; close it, its connection counts as a descriptor.
func (c *Cluster) API() *client.Client { return client.Unix(c.Session.APISocket) }

// Yr runs a yr command in this cluster's prefix and returns how it ended.
func (c *Cluster) Yr(args ...string) Result {
	c.t.Helper()
	return c.Command(append([]string{Binary(c.t), "--log-dir-prefix", c.Prefix}, args...)...).Wait()
}

// Stop runs `yr stop`, which must succeed.
func (c *Cluster) Stop() {
	c.t.Helper()
	if r := c.Yr("stop"); r.Code != 0 {
		c.t.Errorf("yr stop: %s", r)
	}
}

// Parent and Child are the two processes of the daemon; after a crash of the
// child, Child changes.
func (c *Cluster) Parent() int { return c.Session.ClusterInfo.Daemon.PID }

// Child is the daemon proper.
func (c *Cluster) Child() int {
	c.t.Helper()
	f, err := session.Latest(c.Prefix)
	if err != nil {
		c.t.Fatal(err)
	}
	return f.ChildPID()
}

// Restarted waits until the parent has replaced the child that was pid, and returns the new one.
func (c *Cluster) Restarted(pid int) int {
	c.t.Helper()
	var now int
	Eventually(c.t, "restart of the daemon", func() (bool, string) {
		now = c.Child()
		return now != 0 && now != pid && session.Started(now) != 0, fmt.Sprintf("pid %d, was %d", now, pid)
	})
	return now
}

// Logs returns the ends of the cluster's log files, for failing tests.
func (c *Cluster) Logs() string {
	var all strings.Builder
	paths, _ := filepath.Glob(filepath.Join(c.Prefix, "2*", "logs", "*"))
	for _, path := range paths {
		body, err := os.ReadFile(path)
		if err != nil || len(body) == 0 {
			continue
		}
		const most = 3000
		from := max(0, len(body)-most)
		if at := crash.FindIndex(body); at != nil {
			from = min(from, at[0])
			body = body[:min(len(body), from+2*most)]
		}
		fmt.Fprintf(&all, "--- %s\n%s\n", filepath.Base(path), body[from:])
	}
	return all.String()
}

// crash is how Go reports that a program made a mistake.
var crash = regexp.MustCompile(`(?m)^.*(panic: |fatal error: |\[signal SIG)`)

// mustNotHaveCrashed fails the test if a daemon ended by its own mistake, although its parent made up for it.
func (c *Cluster) mustNotHaveCrashed() {
	paths, _ := filepath.Glob(filepath.Join(c.Prefix, "2*", "logs", "yr_daemon.log"))
	for _, path := range paths {
		if body, _ := os.ReadFile(path); crash.Match(body) {
			c.t.Errorf("the daemon crashed: %s", crash.Find(body))
		}
	}
}

// mustVanish stops the cluster and fails the test if it leaves anything.
func (c *Cluster) mustVanish() {
	if !c.mayCrash {
		c.mustNotHaveCrashed()
	}
	if c.t.Failed() && c.Session != nil {
		c.t.Log(c.Logs())
	}
	if c.Session != nil && c.Session.Alive() {
		if r := c.Yr("stop"); r.Code != 0 {
			c.t.Errorf("yr stop: %s", r)
		}
	}
	c.Gone()
	for _, p := range c.Processes() {
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
	}
}

// Gone waits until nothing of the cluster is left: no process, socket, shared
// memory, and no file by which programs would look for it.
func (c *Cluster) Gone() {
	c.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	var left []string
	for {
		if left = c.left(); len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *Cluster) left() (left []string) {
	for _, p := range c.Processes() {
		left = append(left, "process "+p.String())
	}
	for _, name := range sharedMemory() {
		if !slices.Contains(c.shm, name) {
			left = append(left, "shared memory /dev/shm/"+name)
		}
	}
	_ = filepath.WalkDir(c.Prefix, func(path string, entry os.DirEntry, err error) error {
		switch {
		case err != nil:
		case entry.Type()&os.ModeSocket != 0, entry.Name() == session.MasterInfo,
			filepath.Base(filepath.Dir(path)) == "workers":
			left = append(left, "file "+path)
		}
		return nil //nolint:nilerr // what is gone was not left
	})
	if c.Session != nil {
		if dir := filepath.Dir(c.Session.Socket); !strings.HasPrefix(dir, c.Prefix) {
			if _, err := os.Stat(dir); err == nil {
				left = append(left, "directory "+dir)
			}
		}
	}
	return slices.DeleteFunc(left, func(what string) bool { return c.ruins[what] })
}

func sharedMemory() (names []string) {
	entries, _ := os.ReadDir("/dev/shm")
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// environ is what everything of this cluster is started with.
func (c *Cluster) environ() []string {
	env := []string{
		marker + "=" + c.name,
		"PYTHONPATH=" + filepath.Join(Root(), "sdk", "python"),
		"YR_MASTER_INFO_PATH=" + filepath.Join(c.Prefix, session.MasterInfo),
		"YR_PYTHON=" + Python(c.t),
		"PATH=" + filepath.Dir(Binary(c.t)) + ":" + os.Getenv("PATH"),
		"TMPDIR=" + c.Prefix,
		"PYTHONDONTWRITEBYTECODE=", "PYTHONUNBUFFERED=1",
	}
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if name != "PATH" && name != "PYTHONPATH" && name != "TMPDIR" && !strings.HasPrefix(name, "YR_") {
			env = append(env, pair)
		}
	}
	return env
}

// Command starts a program of this cluster.
func (c *Cluster) Command(argv ...string) *Program {
	c.t.Helper()
	return c.start(exec.Command(argv[0], argv[1:]...))
}
