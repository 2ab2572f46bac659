package launch

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A process is one live template interpreter. Only its template's goroutine
// talks to it; died is closed by the goroutine that reaps it.
type process struct {
	program string
	pid     int
	control *os.File
	words   *tail
	died    chan struct{}
	how     string // it ended; how and killed are readable once died is closed
	killed  bool   // by a signal
	about   struct {
		Version    string `json:"version"`
		Executable string `json:"executable"`
	}
}

// maxAnswer is far more than a template ever has to say.
const maxAnswer = 1 << 20

// spawn starts program as a template and waits until it is ready. On failure
// nothing is left of it.
func (l *Launcher) spawn(ctx context.Context, o origin, program string, preload bool) (*process, *failure) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, &failure{program: program, why: err.Error()}
	}
	_ = unix.SetNonblock(pair[0], true) // ours obeys deadlines, the template's blocks
	p := &process{
		program: program,
		control: os.NewFile(uintptr(pair[0]), "template control"),
		words:   &tail{},
		died:    make(chan struct{}),
	}
	theirs := os.NewFile(uintptr(pair[1]), "template control")
	defer theirs.Close()

	cmd := exec.Command(program, o.args(preload)...)
	cmd.Env, cmd.Dir = o.env, "/"
	cmd.Stdout, cmd.Stderr = p.words, p.words
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.WaitDelay = time.Second // a child that still holds the pipe keeps no one waiting
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := l.begin(cmd); err != nil {
		_ = p.control.Close()
		return nil, &failure{program: program, why: reason(err)}
	}
	p.pid = cmd.Process.Pid
	l.running.Go(func() {
		p.how, p.killed = howEnded(cmd)
		l.mu.Lock()
		delete(l.pids, p.pid)
		l.mu.Unlock()
		close(p.died)
	})
	_ = theirs.Close() // or its end would not be seen here

	err = p.receive(ctx, l.opt.StartTimeout, &p.about)
	if err == nil {
		return p, nil
	}
	f := &failure{program: program, why: fmt.Sprintf("it did not come up within %v", l.opt.StartTimeout)}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		select { // it is ending by itself: let it say why
		case <-p.died:
			f.why, f.killed = p.how, p.killed
		case <-ctx.Done():
			f.why = errClosed.Error()
		case <-time.After(time.Second):
			f.why = err.Error()
		}
	}
	p.end()
	f.words = p.words.String()
	return nil, f
}

func howEnded(cmd *exec.Cmd) (how string, killed bool) {
	err := cmd.Wait()
	if cmd.ProcessState == nil {
		return err.Error(), false
	}
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return exitText(status), status.Signaled()
}

// begin starts cmd so that the sweep cannot take its pid for an orphan's.
func (l *Launcher) begin(cmd *exec.Cmd) error {
	l.mu.Lock()
	l.unnamed++
	l.mu.Unlock()
	err := cmd.Start()
	l.mu.Lock()
	l.unnamed--
	if err == nil {
		l.pids[cmd.Process.Pid] = true
	}
	l.mu.Unlock()
	return err
}

// end kills what is left of the template and waits for it.
func (p *process) end() {
	_ = p.control.Close()
	select {
	case <-p.died:
	default:
		killGroup(p.pid)
		<-p.died
	}
}

// An answer tells the pids of the first orders of a batch; Error is why there are no more.
type answer struct {
	PIDs  []int  `json:"pids"`
	Error string `json:"error"`
}

// How far a template has come with a batch.
type progress int

const (
	unread   progress = iota // nothing is forked
	begun                    // perhaps
	answered                 // the answer is true, and its workers are the daemon's children
)

// fork has the template fork one worker for each order. An error says that the
// template is of no use any more.
func (p *process) fork(ctx context.Context, limit time.Duration, orders []order) (a answer, far progress, err error) {
	message := struct {
		Forks []order `json:"forks"`
	}{orders}
	if err := p.send(limit, message); err != nil {
		return a, unread, err
	}
	if err := p.receive(ctx, limit, nil); err != nil {
		return a, unread, err
	}
	if err := p.receive(ctx, limit, &a); err != nil {
		return a, begun, err
	}
	return a, answered, p.receive(ctx, limit, nil)
}

// Messages are a little-endian u32 length and that much JSON. The empty message,
// which receive expects if v is nil, says that forking begins, and that it is over.

func (p *process) send(limit time.Duration, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_ = p.control.SetWriteDeadline(time.Now().Add(limit))
	_, err = p.control.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...)) //nolint:gosec // a batch of orders is far below 4 GiB
	return err
}

func (p *process) receive(ctx context.Context, limit time.Duration, v any) error {
	_ = p.control.SetReadDeadline(time.Now().Add(limit))
	stop := context.AfterFunc(ctx, func() { _ = p.control.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var header [4]byte
	if _, err := io.ReadFull(p.control, header[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(header[:])
	if n > maxAnswer || (n == 0) != (v == nil) {
		return fmt.Errorf("it answered with %d bytes, which is no answer of a template", n)
	}
	if v == nil {
		return nil
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(p.control, body); err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}

// tail keeps the last bytes written to it.
type tail struct {
	mu   sync.Mutex
	last []byte
}

const tailBytes = 2048

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, b...)
	if extra := len(t.last) - tailBytes; extra > 0 {
		t.last = append(t.last[:0], t.last[extra:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.last))
}

// reason drops what the caller says anyway from an os/exec error.
func reason(err error) string {
	if e := new(os.PathError); errors.As(err, &e) {
		return e.Err.Error()
	}
	if e := new(exec.Error); errors.As(err, &e) {
		return e.Err.Error()
	}
	return err.Error()
}
