package session

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"yr/pkg/config"
	"yr/pkg/yr"
)

// Info is what an SDK or a joining node needs to know: the master info line, and
// "for-join" of session.json.
type Info struct {
	LocalIP, MasterIP string
	Masters           []config.Master // of a cluster that has several
	Ports             config.Ports    // Master is MasterIP's, the others are this node's
	Frontend          bool
}

// InfoOf is the Info of a node: on one that has joined, of the master it joined.
func InfoOf(p *Plan) Info {
	s := p.Settings
	i := Info{LocalIP: s.LocalIP, MasterIP: s.HostIP, Masters: s.Masters, Ports: s.Ports}
	if len(s.Join) > 0 && !p.Master {
		if host, port, err := net.SplitHostPort(s.Join[0]); err == nil {
			i.MasterIP = host
			i.Ports.Master.Number, _ = strconv.Atoi(port)
		}
	}
	return i
}

// Line is the one line of yr_current_master_info, its newline included. Keys and
// their order are openYuanrong's.
func (i Info) Line() string {
	pairs := []struct {
		key   string
		value any
	}{
		{"local_ip", i.LocalIP},
		{"master_ip", i.MasterIP},
		{"etcd_ip", i.MasterIP},
		{"etcd_port", i.Ports.Etcd.Number},
		{"etcd_peer_port", i.Ports.EtcdPeer.Number},
		{"global_scheduler_port", i.Ports.Master.Number},
		{"ds_master_port", i.Ports.DSMaster.Number},
		{"bus-proxy", i.Ports.Proxy.Number},
		{"bus", i.Ports.Bus.Number},
		{"ds-worker", i.Ports.DSWorker.Number},
	}
	var b strings.Builder
	for _, p := range pairs {
		fmt.Fprintf(&b, "%s:%v,", p.key, p.value)
	}
	if i.Frontend {
		fmt.Fprintf(&b, "frontend_port:%d,", i.Ports.Frontend.Number)
	}
	if len(i.Masters) > 0 {
		ips := make([]string, len(i.Masters))
		for n, m := range i.Masters {
			ips[n] = m.IP
		}
		fmt.Fprintf(&b, "etcd_addr_list:%s,", strings.Join(ips, ";"))
	}
	return b.String() + "\n"
}

// ParseLine reads from a master info line where to join: the master that wrote
// it, then the other masters.
func ParseLine(line string) ([]string, error) {
	keys := map[string]string{}
	for _, pair := range strings.Split(strings.TrimSpace(line), ",") {
		if key, value, ok := strings.Cut(pair, ":"); ok {
			keys[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	port := keys["global_scheduler_port"]
	if port == "" || keys["master_ip"] == "" {
		return nil, yr.E("read --master-info", yr.ParamInvalid,
			"%.120q is not the line of a master; it holds master_ip and global_scheduler_port, and lies in %s on the master's machine", line, MasterInfo)
	}
	var join []string
	for _, ip := range append([]string{keys["master_ip"]}, strings.Split(keys["etcd_addr_list"], ";")...) {
		if ip == "" {
			continue
		}
		address, err := config.ParseMaster(net.JoinHostPort(ip, port))
		if err != nil {
			return nil, err
		}
		if !slices.Contains(join, address) {
			join = append(join, address)
		}
	}
	return join, nil
}

// MasterAddresses lists where other nodes reach the masters.
func (i Info) MasterAddresses() []string {
	if len(i.Masters) == 0 {
		return []string{net.JoinHostPort(i.MasterIP, strconv.Itoa(i.Ports.Master.Number))}
	}
	list := make([]string, len(i.Masters))
	for n, m := range i.Masters {
		list[n] = m.Address()
	}
	return list
}

// ForJoin is the same knowledge as session.json has it.
func (i Info) ForJoin() map[string]string {
	etcd := []string{fmt.Sprintf("%s:%d", i.MasterIP, i.Ports.Etcd.Number)}
	if len(i.Masters) > 0 {
		etcd = etcd[:0]
		for _, m := range i.Masters {
			etcd = append(etcd, net.JoinHostPort(m.IP, strconv.Itoa(m.EtcdPort)))
		}
	}
	return map[string]string{
		"function_master.ip":       i.MasterIP,
		"function_master.port":     strconv.Itoa(i.Ports.Master.Number),
		"etcd.ip":                  i.MasterIP,
		"etcd.port":                strconv.Itoa(i.Ports.Etcd.Number),
		"etcd.peer_port":           strconv.Itoa(i.Ports.EtcdPeer.Number),
		"etcd.addresses":           strings.Join(etcd, ","),
		"masters":                  strings.Join(i.MasterAddresses(), ","),
		"ds_master.ip":             i.MasterIP,
		"ds_master.port":           strconv.Itoa(i.Ports.DSMaster.Number),
		"function_proxy.port":      strconv.Itoa(i.Ports.Proxy.Number),
		"function_proxy.grpc_port": strconv.Itoa(i.Ports.Bus.Number),
		"ds_worker.port":           strconv.Itoa(i.Ports.DSWorker.Number),
		"agent.ip":                 i.LocalIP,
		"frontend.port":            strconv.Itoa(i.Ports.Frontend.Number),
	}
}
