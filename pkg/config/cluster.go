package config

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"yr/pkg/yr"
)

// DefaultMasterPort is where a master is reached when nobody says otherwise.
const DefaultMasterPort = 22770

// The ports of etcd: clients' (named only, the embedded etcd serves a Unix socket)
// and that on which the masters' members reach each other.
const (
	defaultEtcdPort = 32379
	defaultPeerPort = 32380
)

// Master is one of the masters of a cluster that has several. All of them have
// the same list, in the same order.
type Master struct {
	IP       string
	Port     int // function_master's: HTTP, and everything between nodes
	PeerPort int // etcd's, among masters
	EtcdPort int // named in the master info line, not listened on
}

// Address is where other nodes reach the master.
func (m Master) Address() string { return net.JoinHostPort(m.IP, strconv.Itoa(m.Port)) }

// Master returns the settings of a node that is a master: the only one of its
// cluster, one of Masters, or a further one of the cluster that it joins.
func (c *Config) Master() (Settings, error) {
	s, err := c.Settings()
	if err != nil {
		return s, err
	}
	r := reader{c: c}
	masters := r.masters()
	several := r.truth("values", "etcd", "enable_multi_master")
	if s.Join = r.named(); len(s.Join) > 0 && several {
		return s, yr.E("configuration", yr.ParamInvalid,
			"a master either begins a cluster with others (--masters, values.etcd.enable_multi_master) or joins one that runs (--join, values.join); give only one of them")
	}
	if !several {
		// A list of one may still say on which ports its etcd is.
		if at := slices.IndexFunc(masters, func(m Master) bool { return m.IP == s.HostIP || len(masters) == 1 }); at >= 0 {
			s.Ports.Etcd.Number = masters[at].EtcdPort
			s.Ports.EtcdPeer = Port{Number: masters[at].PeerPort, Chosen: true}
		}
		return s, r.err
	}
	if r.err != nil {
		return s, r.err
	}
	if err := checkMasters(masters); err != nil {
		return s, err
	}
	if !s.HostIPChosen {
		c.adoptMasterIP(&s, masters)
	}
	own := slices.IndexFunc(masters, func(m Master) bool { return sameIP(m.IP, s.HostIP) })
	if own < 0 {
		return s, yr.E("configuration", yr.ParamInvalid,
			"this node is %s, which is not among the masters %s; say which of them it is with -s 'values.host_ip=\"ADDRESS\"', or start it without --master",
			s.HostIP, addresses(masters))
	}
	s.Masters, s.MasterIndex = masters, own
	// The others look for this node exactly here, so a busy port is an error.
	s.Ports.Master = Port{Number: masters[own].Port, Chosen: true}
	s.Ports.EtcdPeer = Port{Number: masters[own].PeerPort, Chosen: true}
	s.Ports.Etcd.Number = masters[own].EtcdPort
	if !c.SetByUser("etcd", "args", "unsafe-no-fsync") {
		s.Fsync = true // what a majority has acknowledged outlives a power failure
	}
	return s, nil
}

// adoptMasterIP finds out which of the masters this machine is: the list names
// one of its addresses, though perhaps not the one with the route to the outside.
func (c *Config) adoptMasterIP(s *Settings, masters []Master) {
	if slices.ContainsFunc(masters, func(m Master) bool { return sameIP(m.IP, s.HostIP) }) {
		return
	}
	for _, m := range masters {
		if slices.ContainsFunc(c.addresses, func(ip string) bool { return sameIP(ip, m.IP) }) {
			c.Move(s, m.IP)
			return
		}
	}
}

// checkMasters refuses a list that cannot become a cluster.
func checkMasters(masters []Master) error {
	const op = "configuration"
	n := len(masters)
	switch {
	case n < 3:
		return yr.E(op, yr.ParamInvalid,
			"%d masters are named, but a cluster that outlives one of them needs 3: give --masters A,B,C, or three [[values.etcd.address]]", n)
	case n%2 == 0:
		return yr.E(op, yr.ParamInvalid,
			"%d masters are named; an even number survives no more losses than %d would, so name %d or %d", n, n-1, n-1, n+1)
	}
	seen := map[string]bool{}
	for _, m := range masters {
		if seen[m.IP] {
			return yr.E(op, yr.ParamInvalid, "master %s is named twice; each address is one machine", m.IP)
		}
		seen[m.IP] = true
		if m.Port == 0 || m.PeerPort == 0 {
			return yr.E(op, yr.ParamInvalid, "master %s has port 0; its peers must know its ports, so name them", m.IP)
		}
		if ip := net.ParseIP(m.IP); ip.IsUnspecified() {
			return yr.E(op, yr.ParamInvalid, "master %s is no address that others could reach; name the machine's own", m.IP)
		}
	}
	return nil
}

// Agent returns the settings of a node that joins a cluster.
func (c *Config) Agent() (Settings, error) {
	s, err := c.Settings()
	if err != nil {
		return s, err
	}
	r := reader{c: c}
	s.Join = r.join()
	if r.err == nil && len(s.Join) == 0 {
		r.fail(yr.E("start", yr.ParamInvalid,
			"say which cluster: `yr start --master` begins one here, `yr start --join HOST:PORT --token TOKEN` joins another's"))
	}
	return s, r.err
}

// Move gives a node another address than the one that was found out, and what
// follows from it.
func (c *Config) Move(s *Settings, ip string) {
	if !c.SetByUser("values", "local_ip") && s.LocalIP == s.HostIP {
		s.LocalIP = ip
	}
	s.HostIP = ip
	s.Label()
}

// join reads where to join: values.join, else the keys by which openYuanrong's
// workers find their master.
func (r *reader) join() []string {
	list := r.named()
	if len(list) > 0 || r.err != nil {
		return list
	}
	if ip := r.text("values", "function_master", "ip"); ip != "" {
		list = append(list, net.JoinHostPort(ip, strconv.Itoa(r.port("values", "function_master", "global_scheduler_port").Number)))
	}
	for _, m := range r.masters() {
		if !slices.Contains(list, m.Address()) {
			list = append(list, m.Address())
		}
	}
	return list
}

// named reads values.join.
func (r *reader) named() []string {
	var list []string
	for _, text := range r.texts("values", "join") {
		address, err := ParseMaster(text)
		if err != nil {
			r.fail(err)
		} else if !slices.Contains(list, address) {
			list = append(list, address)
		}
	}
	return list
}

// ParseMaster reads the address of a master, HOST[:PORT].
func ParseMaster(text string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil { // no port, or an IPv6 address without brackets
		host, port = strings.Trim(text, "[]"), strconv.Itoa(DefaultMasterPort)
		if strings.Contains(host, ":") && net.ParseIP(host) == nil {
			host = ""
		}
	}
	n, perr := strconv.Atoi(port)
	if host == "" || strings.ContainsAny(host, "/ []%") || perr != nil || n < 1 || n > 65535 {
		return "", yr.E("configuration", yr.ParamInvalid,
			"%.80q is not the address of a master; give HOST:PORT, as in --join 10.0.0.1:%d, or a URL with --master-address", text, DefaultMasterPort)
	}
	return net.JoinHostPort(host, port), nil
}

// masters reads [[values.etcd.address]].
func (r *reader) masters() []Master {
	list, _ := r.c.get("values", "etcd", "address").([]any)
	if one, ok := r.c.get("values", "etcd", "address").(map[string]any); ok {
		list = []any{one} // [values.etcd.address] with single brackets
	}
	var masters []Master
	for i, entry := range list {
		table, ok := entry.(map[string]any)
		ip := fmt.Sprint(table["ip"])
		if !ok || net.ParseIP(ip) == nil {
			r.fail(wrong([]string{"values", "etcd", "address"}, fmt.Sprint(entry),
				`a list of {ip="10.0.0.1", port=32379, peer_port=32380} (entry %d is not)`, i+1))
			continue
		}
		port := func(key string, otherwise int) int {
			v, given := table[key]
			if !given {
				return otherwise
			}
			n, err := strconv.Atoi(strings.TrimSpace(fmt.Sprint(v)))
			if err != nil || n < 0 || n > 65535 {
				r.fail(wrong([]string{"values", "etcd", "address", key}, fmt.Sprint(v), "a port, 1 to 65535"))
			}
			return n
		}
		masters = append(masters, Master{
			IP:       ip,
			Port:     port("global_scheduler_port", r.port("values", "function_master", "global_scheduler_port").Number),
			PeerPort: port("peer_port", defaultPeerPort),
			EtcdPort: port("port", defaultEtcdPort),
		})
	}
	return masters
}

// PutMasters sets in a tree the configuration that --masters A,B,C stands for.
func PutMasters(t map[string]any, list string) error {
	var entries []any
	for _, text := range strings.Split(list, ",") {
		entry := map[string]any{}
		host, port, err := net.SplitHostPort(strings.TrimSpace(text))
		if err != nil {
			host = strings.Trim(strings.TrimSpace(text), "[]")
		} else if entry["global_scheduler_port"], err = strconv.ParseInt(port, 10, 32); err != nil {
			host = ""
		}
		if net.ParseIP(host) == nil {
			return yr.E("configuration", yr.ParamInvalid,
				"--masters %.80q: %.40q is not IP or IP:PORT; as in --masters 10.0.0.1,10.0.0.2,10.0.0.3", list, text)
		}
		entry["ip"] = host
		entries = append(entries, entry)
	}
	Put(t, []string{"values", "etcd", "enable_multi_master"}, true)
	Put(t, []string{"values", "etcd", "address"}, entries)
	return nil
}

// texts reads a list of texts, or one text with commas.
func (r *reader) texts(key ...string) []string {
	var list []string
	if items, ok := r.c.get(key...).([]any); ok {
		for _, item := range items {
			list = append(list, fmt.Sprint(item))
		}
		return list
	}
	for _, part := range strings.Split(r.text(key...), ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

func sameIP(a, b string) bool {
	x, y := net.ParseIP(a), net.ParseIP(b)
	return x != nil && x.Equal(y)
}

func addresses(masters []Master) string {
	list := make([]string, len(masters))
	for i, m := range masters {
		list[i] = m.IP
	}
	return strings.Join(list, ", ")
}
