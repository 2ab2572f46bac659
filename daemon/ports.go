package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"golang.org/x/sys/unix"

	"yr/pkg/config"
	"yr/pkg/yr"
)

// port is a TCP port that the daemon listens on: the name under which the parent
// keeps it, its configuration key, and what that key says.
type port struct {
	name, key string
	want      *config.Port // Number becomes the port that was taken
}

// listenTCP opens a port on the node's address. A default port that is busy is
// replaced by a free one, with a warning, unless --port-policy FIX forbids it.
// A port that somebody chose is never replaced.
func (d *Daemon) listenTCP(p port) (net.Listener, error) {
	host := d.plan.Settings.HostIP
	wanted := p.want.Number
	ln, err := d.child.Listen(p.name, "tcp", net.JoinHostPort(host, strconv.Itoa(wanted)))
	if err != nil {
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, yr.E("listen", yr.ParamInvalid, "%v; is values.host_ip=%q an address of this machine? set it with -s 'values.host_ip=\"ADDRESS\"'", err, host)
		}
		if d.plan.FixPorts || p.want.Chosen {
			return nil, portInUse(p, host)
		}
		if ln, err = d.child.Listen(p.name, "tcp", net.JoinHostPort(host, "0")); err != nil {
			return nil, yr.Wrap("listen", yr.ParamInvalid, err)
		}
	}
	d.closeLater(p.name, ln)
	address, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("listener %s is not TCP but %v", p.name, ln.Addr())
	}
	p.want.Number = address.Port
	if wanted != 0 && wanted != address.Port && d.child.Restarts() == 0 { // a restarted daemon has the port it had
		d.warn("port %d (%s) is in use; %d is used instead", wanted, p.key, address.Port)
	}
	return ln, nil
}

func portInUse(p port, host string) error {
	advice := fmt.Sprintf("free it, or choose another with -s '%s=PORT' (0: any free one)", p.key)
	if !p.want.Chosen {
		advice += ", or leave it to --port-policy RANDOM"
	}
	return yr.E("listen", yr.ParamInvalid, "port %d of %s (%s) is in use by another program; %s", p.want.Number, host, p.key, advice)
}

// listenUnix opens a Unix socket. A stale file, left by a daemon that had no
// time to remove it, is replaced: the session directory is ours alone.
func (d *Daemon) listenUnix(name, path string) (net.Listener, error) {
	ln, inherited, err := d.child.Listener(name)
	if err != nil {
		return nil, err
	}
	if !inherited {
		if err := unix.Unlink(path); err != nil && err != unix.ENOENT {
			return nil, fmt.Errorf("remove stale socket %s: %w", path, err)
		}
		if ln, err = d.child.Listen(name, "unix", path); err != nil {
			return nil, err
		}
	}
	d.closeLater(name, ln)
	return ln, nil
}

// closeLater closes a listener after everything that uses it. Most have been
// closed by their users then.
func (d *Daemon) closeLater(name string, ln net.Listener) {
	d.closers = append(d.closers, closer{name, func(context.Context) error {
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}})
}
