package lab

import "fmt"

// nowhere is a hardware address that no host has: frames to it reach nobody, and nobody learns of it.
const nowhere = "02:22:ff:ff:ff:ff"

func (h *Host) neighbour(other *Host, mac string) string {
	return fmt.Sprintf("neigh replace %s lladdr %s dev eth0 nud permanent", other.Address, mac)
}

// Blackhole has everything that h sends to the others vanish without a word; what
// they send still arrives.
func (h *Host) Blackhole(others ...*Host) error {
	return h.reach(others, func(*Host) string { return nowhere })
}

// Reach ends a Blackhole.
func (h *Host) Reach(others ...*Host) error {
	return h.reach(others, func(other *Host) string { return other.mac })
}

func (h *Host) reach(others []*Host, mac func(*Host) string) error {
	var commands []string
	for _, other := range others {
		if other != h {
			commands = append(commands, h.neighbour(other, mac(other)))
		}
	}
	if len(commands) == 0 {
		return nil
	}
	return ip(h.Name, commands...)
}

// Partition divides the lab: hosts of one side reach each other, and nobody
// reaches another side. A host that is on no side reaches nobody.
func (l *Lab) Partition(sides ...[]*Host) error {
	side := map[*Host]int{}
	for i, hosts := range sides {
		for _, h := range hosts {
			side[h] = i + 1
		}
	}
	return l.each(func(h, other *Host) string {
		if side[h] == 0 || side[h] != side[other] {
			return nowhere
		}
		return other.mac
	})
}

// Isolate cuts hosts off from everybody, and from each other.
func (l *Lab) Isolate(hosts ...*Host) error {
	alone := map[*Host]bool{}
	for _, h := range hosts {
		alone[h] = true
	}
	return l.each(func(h, other *Host) string {
		if alone[h] || alone[other] {
			return nowhere
		}
		return other.mac
	})
}

// Heal ends every Blackhole, Partition and Isolate.
func (l *Lab) Heal() error { return l.each(func(_, other *Host) string { return other.mac }) }

func (l *Lab) each(mac func(h, other *Host) string) error {
	for _, h := range l.Hosts {
		if err := h.reach(l.Hosts, func(other *Host) string { return mac(h, other) }); err != nil {
			return err
		}
	}
	return nil
}

// Unplug takes the host's cable out of the switch: unlike after a Blackhole, the host knows.
func (h *Host) Unplug() error { return ip(h.lab.name, "link set "+h.port+" down") }

// Plug puts it back.
func (h *Host) Plug() error { return ip(h.lab.name, "link set "+h.port+" up") }
