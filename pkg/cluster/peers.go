package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"

	"yr/pkg/yr"
)

// DefaultPeerPort is values.etcd.address's peer_port.
const DefaultPeerPort = 32380

// A peer answers within probeTimeout or counts as missing; what was found out is
// believed for probeAge.
const (
	probeTimeout = time.Second
	probeAge     = time.Second
)

// Voter is a master as the configuration names it.
type Voter struct {
	Name    string // etcd0, etcd1, ...: its position in values.etcd.address
	Address string // host:peer_port
}

// PeerTLS are the files with which masters prove themselves to each other. Both
// sides always do. Certificate and key are read again at every handshake, the
// authority's at the start only.
type PeerTLS struct {
	CertFile, KeyFile, CAFile string

	// ServerName is what a certificate must be made out to, instead of the address
	// that is dialled: for derived certificates, which know no addresses.
	ServerName string
}

func (t PeerTLS) info() transport.TLSInfo {
	return transport.TLSInfo{
		CertFile: t.CertFile, KeyFile: t.KeyFile, TrustedCAFile: t.CAFile, ClientCertAuth: true,
		ServerName: t.ServerName, SkipClientSANVerify: t.ServerName != "",
	}
}

// Peers say how this master meets the others.
type Peers struct {
	Name    string // of this member; "" is what Voters call it, or made of its address
	Address string // host:port at which the other masters reach this one
	Listen  string // "" listens at Address, at every address if its host is a name
	TLS     PeerTLS

	// Voters are all configured masters, this one included. None, or this one
	// alone: the master is alone, and listens only once it has been grown.
	Voters []Voter

	// Join asks the existing cluster to admit this master and returns the initial
	// cluster for it: AddMember, called on any member. It is called by Open, if the
	// data directory is empty and either no other voters are configured or they
	// turn out to have a cluster already. It must be possible to call it again.
	Join func(ctx context.Context, name, address string) (initialCluster string, err error)
}

// VotersOf names the masters of values.etcd.address, given as host:peer_port, and
// finds this one, whose host is hostIP.
func VotersOf(addresses []string, hostIP string) (voters []Voter, self int, err error) {
	self = -1
	for i, address := range addresses {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, -1, yr.E("masters", yr.ParamInvalid, "values.etcd.address[%d] is %q, want an ip and a peer_port", i, address)
		}
		if self < 0 && sameHost(host, hostIP) {
			self = i
		}
		voters = append(voters, Voter{Name: "etcd" + strconv.Itoa(i), Address: address})
	}
	if self < 0 {
		return nil, -1, yr.E("masters", yr.ParamInvalid,
			"none of values.etcd.address (%s) has values.host_ip %s; correct one of them, or start this node with --join", strings.Join(addresses, ", "), hostIP)
	}
	return voters, self, nil
}

func sameHost(a, b string) bool {
	ipA, errA := netip.ParseAddr(a)
	ipB, errB := netip.ParseAddr(b)
	if errA == nil && errB == nil {
		return ipA.Unmap() == ipB.Unmap()
	}
	return a == b
}

func (p *Peers) name() string {
	if p.Name != "" {
		return p.Name
	}
	for _, v := range p.Voters {
		if v.Address == p.Address {
			return v.Name
		}
	}
	return "etcd-" + p.Address
}

// others are the configured voters but this one.
func (p *Peers) others() []Voter {
	var others []Voter
	for _, v := range p.Voters {
		if v.Address != p.Address {
			others = append(others, v)
		}
	}
	return others
}

// initialCluster is etcd's way to write the voters down.
func (p *Peers) initialCluster() string {
	parts := make([]string, 0, len(p.Voters))
	for _, v := range p.Voters {
		parts = append(parts, v.Name+"="+peerURL(v.Address))
	}
	return strings.Join(parts, ",")
}

func (p *Peers) listenURL() (url.URL, error) {
	if p.Listen != "" {
		return url.URL{Scheme: "https", Host: p.Listen}, nil
	}
	host, port, err := net.SplitHostPort(p.Address)
	if err != nil {
		return url.URL{}, err
	}
	if _, err := netip.ParseAddr(host); err != nil {
		host = "0.0.0.0" // etcd listens at numbers only
	}
	return url.URL{Scheme: "https", Host: net.JoinHostPort(host, port)}, nil
}

func (p *Peers) check() error {
	fail := func(format string, args ...any) error { return yr.E("masters", yr.ParamInvalid, format, args...) }
	if _, _, err := net.SplitHostPort(p.Address); err != nil {
		return fail("the peer address %q of this master is not host:port", p.Address)
	}
	if p.TLS.CertFile == "" || p.TLS.KeyFile == "" || p.TLS.CAFile == "" {
		return fail("masters talk to each other with mutual TLS only, and a certificate, its key or the authority is missing; set values.etcd.auth")
	}
	if len(p.Voters) == 2 {
		return fail("two masters survive the loss of neither; configure one, or three")
	}
	names, addresses := map[string]bool{}, map[string]bool{}
	for _, v := range p.Voters {
		if names[v.Name] || addresses[v.Address] {
			return fail("the master %s (%s) is configured twice", v.Name, v.Address)
		}
		names[v.Name], addresses[v.Address] = true, true
		if v.Address == p.Address && v.Name != p.name() {
			return fail("this master is %s by its address and %s by its name", v.Name, p.name())
		}
	}
	if len(p.Voters) > 0 && !addresses[p.Address] {
		return fail("this master's address %s is not among the configured ones", p.Address)
	}
	return nil
}

func peerURL(address string) string { return "https://" + address }

// prober asks the other masters whether they live and to what cluster they
// belong, at the port at which etcd serves its peers.
type prober struct {
	http *http.Client

	mu    sync.Mutex // protects what follows
	asked time.Time
	dead  []Voter
}

func newProber(t PeerTLS) (*prober, error) {
	rt, err := transport.NewTransport(t.info(), probeTimeout)
	if err != nil {
		return nil, yr.Wrap("masters' certificates", yr.ParamInvalid, err)
	}
	rt.DisableKeepAlives = true
	return &prober{http: &http.Client{Transport: rt, Timeout: probeTimeout}}, nil
}

// answer is what a live master says of its cluster.
type answer struct {
	cluster string // hexadecimal id
	members []membership.Member
}

// maxMembersBytes bounds an answer; a member takes some hundred bytes.
const maxMembersBytes = 1 << 20

func (p *prober) ask(ctx context.Context, address string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, peerURL(address)+"/members", http.NoBody)
	if err != nil {
		return answer{}, err
	}
	response, err := p.http.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxMembersBytes))
	if err != nil {
		return answer{}, err
	}
	if response.StatusCode != http.StatusOK {
		return answer{}, fmt.Errorf("%s answers %s", address, response.Status)
	}
	return parseAnswer(response.Header.Get("X-Etcd-Cluster-ID"), raw)
}

func parseAnswer(cluster string, raw []byte) (answer, error) {
	if _, err := strconv.ParseUint(cluster, 16, 64); err != nil {
		return answer{}, fmt.Errorf("the cluster id %q is not hexadecimal", cluster)
	}
	a := answer{cluster: cluster}
	return a, json.Unmarshal(raw, &a.members)
}

// askAll asks every voter at once. errs[i] is nil where answers[i] is one.
func (p *prober) askAll(ctx context.Context, voters []Voter) (answers []answer, errs []error) {
	answers, errs = make([]answer, len(voters)), make([]error, len(voters))
	var all sync.WaitGroup
	for i, v := range voters {
		all.Go(func() { answers[i], errs[i] = p.ask(ctx, v.Address) })
	}
	all.Wait()
	return answers, errs
}

// anyAnswers reports whether one of these masters lives.
func (p *prober) anyAnswers(ctx context.Context, voters []Voter) bool {
	_, errs := p.askAll(ctx, voters)
	for _, err := range errs {
		if err == nil {
			return true
		}
	}
	return false
}

// survey finds out who is missing, unless that is known since a moment.
func (p *prober) survey(ctx context.Context, voters []Voter) {
	p.mu.Lock()
	fresh := time.Since(p.asked) < probeAge
	if !fresh {
		p.asked = time.Now()
	}
	p.mu.Unlock()
	if fresh {
		return
	}
	_, errs := p.askAll(ctx, voters)
	var dead []Voter
	for i, err := range errs {
		if err != nil {
			dead = append(dead, voters[i])
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = dead
}

// missing are the masters that did not answer the last survey.
func (p *prober) missing() []Voter {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

func describe(voters []Voter) string {
	names := make([]string, len(voters))
	for i, v := range voters {
		names[i] = fmt.Sprintf("%s (%s)", v.Name, v.Address)
	}
	return strings.Join(names, ", ")
}
