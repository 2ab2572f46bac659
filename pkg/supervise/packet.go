package supervise

import (
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxPacket bounds verb and argument; names are short.
const maxPacket = 1024

// packet is one message between parent and child. file is owned by whoever holds the packet.
type packet struct {
	verb, arg string
	file      *os.File
}

// socketPair returns two connected ends; b is meant for the child.
func socketPair() (a *net.UnixConn, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	b = os.NewFile(uintptr(fds[1]), "supervise-child")
	a, err = unixConn(os.NewFile(uintptr(fds[0]), "supervise-parent"))
	if err != nil {
		_ = b.Close()
		return nil, nil, err
	}
	return a, b, nil
}

// unixConn turns an inherited socket into a connection and closes f.
func unixConn(f *os.File) (*net.UnixConn, error) {
	defer func() { _ = f.Close() }()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("descriptor %d is not a Unix socket", f.Fd())
	}
	return u, nil
}

// send writes p; the receiver gets a duplicate of p.file, the caller keeps its own.
func send(c *net.UnixConn, p packet) error {
	text := p.verb + " " + p.arg
	if len(text) > maxPacket {
		return fmt.Errorf("name of %d bytes is too long", len(p.arg))
	}
	if p.file != nil {
		raw, err := p.file.SyscallConn()
		if err != nil {
			return err
		}
		// Control keeps the descriptor open while it is sent, and unlike Fd it
		// leaves the file's blocking mode alone.
		var werr error
		err = raw.Control(func(fd uintptr) {
			_, _, werr = c.WriteMsgUnix([]byte(text), unix.UnixRights(int(fd)), nil)
		})
		if err != nil {
			return err
		}
		return werr
	}
	_, _, err := c.WriteMsgUnix([]byte(text), nil, nil)
	return err
}

// receive reads one packet; io.EOF says that the other side is gone.
func receive(c *net.UnixConn) (packet, error) {
	buf := make([]byte, maxPacket)
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return packet{}, err
	}
	var p packet
	p.verb, p.arg, _ = strings.Cut(string(buf[:n]), " ")
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return packet{}, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return packet{}, err
		}
		for _, fd := range fds {
			if p.file != nil {
				_ = unix.Close(fd)
				continue
			}
			p.file = os.NewFile(uintptr(fd), p.arg)
		}
	}
	return p, nil
}
