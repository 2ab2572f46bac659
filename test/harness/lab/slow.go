package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Line is what becomes of packets on their way in one direction.
type Line struct {
	Delay  time.Duration
	Jitter time.Duration // at most so much more; packets do not overtake each other
	Loss   float64       // probability, 0 to 1
}

// lineRoom is how many packets are under way on a line; more are lost, as in a router.
const lineRoom = 4096

// Slow makes the way from h to another host as bad as line says, in this
// direction only; losses and jitter follow from seed. Fast ends it.
//
// The packets take a detour through this process: the host's route to the other
// one leads into a tunnel device that is read here. The programs notice nothing.
func (h *Host) Slow(to *Host, line Line, seed uint64) error {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	for _, end := range []*Host{h, to} {
		if err := end.tunnelled(); err != nil {
			return err
		}
	}
	h.tun.lay(to, line, seed)
	return ip(h.Name, fmt.Sprintf("route replace %s/32 dev detour src %s", to.Address, h.Address))
}

// Fast ends a Slow.
func (h *Host) Fast(to *Host) error {
	if err := ip(h.Name, fmt.Sprintf("route del %s/32 dev detour", to.Address)); err != nil {
		return err
	}
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	h.tun.take(to)
	return nil
}

// tunnelled makes sure that the host has a tunnel device. The lab's mu is held.
func (h *Host) tunnelled() error {
	if h.tun != nil {
		return nil
	}
	var device *os.File
	err := h.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("tunnel: %w", err)
		}
		request, err := unix.NewIfreq("detour")
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return errors.Join(fmt.Errorf("tunnel: %w", err), unix.Close(fd))
		}
		device = os.NewFile(uintptr(fd), "detour")
		// Packets that come out of the tunnel would be expected on the cable.
		for _, name := range []string{"all", "detour"} {
			_ = os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/rp_filter", []byte("0"), 0)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := ip(h.Name, "link set detour up"); err != nil {
		return errors.Join(err, device.Close())
	}
	h.tun = &tunnel{device: device, lines: map[netip.Addr]*line{}}
	h.tun.reading.Go(h.tun.read)
	return nil
}

// fill ends the host's tunnel, and every goroutine of it. The lab's mu is held.
func (h *Host) fill() {
	if h.tun != nil {
		h.tun.close()
		h.tun = nil
	}
}

// A tunnel takes the packets that a host sends over slow lines.
type tunnel struct {
	device  *os.File
	reading sync.WaitGroup

	mu    sync.Mutex
	lines map[netip.Addr]*line // by destination
}

// A line holds packets until they are due. Its goroutine is the only one that takes them out.
type line struct {
	Line
	random *rand.Rand // used by the tunnel's reader alone
	last   time.Time  // when the packet before is due; the reader's too
	queue  chan packet
	to     *os.File
}

type packet struct {
	due  time.Time
	body []byte
}

func (t *tunnel) lay(to *Host, as Line, seed uint64) {
	l := &line{Line: as, random: rand.New(rand.NewPCG(seed, 0)), queue: make(chan packet, lineRoom), to: to.tun.device} //nolint:gosec // it has to be repeatable
	t.take(to)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines[netip.MustParseAddr(to.Address)] = l
	t.reading.Go(l.deliver)
}

// take ends the line to a host; what is under way still arrives.
func (t *tunnel) take(to *Host) {
	t.mu.Lock()
	defer t.mu.Unlock()
	address := netip.MustParseAddr(to.Address)
	if l := t.lines[address]; l != nil {
		close(l.queue)
		delete(t.lines, address)
	}
}

func (t *tunnel) close() {
	_ = t.device.Close()
	t.mu.Lock()
	for address, l := range t.lines {
		close(l.queue)
		delete(t.lines, address)
	}
	t.mu.Unlock()
	t.reading.Wait()
}

// read takes packets from the device until that is closed.
func (t *tunnel) read() {
	buffer := make([]byte, 1<<16)
	for {
		n, err := t.device.Read(buffer)
		if err != nil {
			return
		}
		const header = 20
		if n < header || buffer[0]>>4 != 4 {
			continue
		}
		t.send(netip.AddrFrom4([4]byte(buffer[16:header])), buffer[:n])
	}
}

func (t *tunnel) send(to netip.Addr, body []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lines[to]
	if l == nil || l.random.Float64() < l.Loss {
		return
	}
	due := time.Now().Add(l.Delay)
	if l.Jitter > 0 {
		due = due.Add(time.Duration(l.random.Int64N(int64(l.Jitter))))
	}
	if due.Before(l.last) {
		due = l.last
	}
	l.last = due
	select {
	case l.queue <- packet{due, append([]byte(nil), body...)}:
	default:
	}
}

func (l *line) deliver() {
	for p := range l.queue {
		time.Sleep(time.Until(p.due))
		_, _ = l.to.Write(p.body) // the other host may be gone
	}
}
