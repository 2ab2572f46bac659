package lab

import (
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"syscall"
)

// A reaper is a shell that waits for the end of its standard input, which is the
// end of the process that started it at the latest, and then does what it was told.
type reaper struct {
	shell  *exec.Cmd
	orders io.WriteCloser
	says   bytes.Buffer
}

func startReaper() (*reaper, error) {
	// Deeds that undo what never happened fail; that is in order.
	r := &reaper{shell: exec.Command("sh", "-c", `orders=$(cat); eval "$orders"; exit 0`)}
	// A session of its own: what kills the group of its parent does not reach it.
	r.shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	r.shell.Stderr = &r.says
	var err error
	if r.orders, err = r.shell.StdinPipe(); err != nil {
		return nil, err
	}
	if err := r.shell.Start(); err != nil {
		return nil, fmt.Errorf("lab: no reaper: %w", err)
	}
	return r, nil
}

// after adds a command; commands run in the order in which they came.
func (r *reaper) after(command string) { _, _ = io.WriteString(r.orders, command+"\n") }

// act has everything done now.
func (r *reaper) act() error {
	_ = r.orders.Close()
	if err := r.shell.Wait(); err != nil {
		return fmt.Errorf("lab: %w: %s", err, r.says.Bytes())
	}
	return nil
}
