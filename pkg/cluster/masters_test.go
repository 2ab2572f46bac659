package cluster_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/cluster"
	"yr/pkg/yr"
)

// nextPort is below the ports that the kernel gives to connections, so that none
// of those takes an address before its master listens there.
var nextPort atomic.Int32

func freeAddress(t testing.TB) string {
	t.Helper()
	for {
		port := 12000 + (nextPort.Add(1)+int32(os.Getpid()%500)*32)%18000
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))
		if l, err := net.Listen("tcp", address); err == nil {
			require.NoError(t, l.Close())
			return address
		}
	}
}

// authority signs certificates for masters on loopback.
type authority struct {
	crt *x509.Certificate
	key *ecdsa.PrivateKey
	der []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{key: makeKey(t), crt: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	a.der = a.sign(t, a.crt, a.key)
	return a
}

func (a *authority) sign(t testing.TB, c *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, a.crt, &key.PublicKey, a.key)
	require.NoError(t, err)
	return der
}

// issue writes a new certificate and its key.
func (a *authority) issue(t testing.TB, files cluster.PeerTLS) {
	t.Helper()
	key := makeKey(t)
	writePEM(t, files.CAFile, "CERTIFICATE", a.der)
	writePEM(t, files.CertFile, "CERTIFICATE", a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "master"}, NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}, key))
	der, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	writePEM(t, files.KeyFile, "EC PRIVATE KEY", der)
}

// makeCertificates makes an authority and one certificate of it.
func makeCertificates(t *testing.T) cluster.PeerTLS {
	t.Helper()
	files := certificateFiles(t)
	newAuthority(t).issue(t, files)
	return files
}

func certificateFiles(t testing.TB) cluster.PeerTLS {
	dir := t.TempDir()
	return cluster.PeerTLS{CertFile: filepath.Join(dir, "crt"), KeyFile: filepath.Join(dir, "key"), CAFile: filepath.Join(dir, "ca")}
}

func makeKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// masters are the members of a test, each with its own directory.
type masters struct {
	t      testing.TB
	issuer *authority
	files  cluster.PeerTLS
	voters []cluster.Voter
	dirs   []string
	live   []*cluster.Member
}

// newMasters makes n masters that have not started.
func newMasters(t testing.TB, n int) *masters {
	m := &masters{t: t, issuer: newAuthority(t), files: certificateFiles(t), live: make([]*cluster.Member, n)}
	m.issuer.issue(t, m.files)
	for i := range n {
		m.voters = append(m.voters, cluster.Voter{Name: fmt.Sprint("etcd", i), Address: freeAddress(t)})
		m.dirs = append(m.dirs, filepath.Join(t.TempDir(), "etcd"))
	}
	t.Cleanup(func() {
		for i := range m.live {
			m.stop(i)
		}
	})
	return m
}

func (m *masters) options(i int) cluster.MemberOptions {
	return cluster.MemberOptions{Dir: m.dirs[i], Peers: &cluster.Peers{
		Name: m.voters[i].Name, Address: m.voters[i].Address, TLS: m.files, Voters: m.voters,
	}}
}

func (m *masters) open(i int, o cluster.MemberOptions) *cluster.Member {
	m.t.Helper()
	require.Nil(m.t, m.live[i], "master %d runs", i)
	member := cluster.NewMember(o)
	require.NoError(m.t, member.Open(m.t.Context()))
	m.live[i] = member
	return member
}

// start starts masters one after the other and waits until all are ready.
func (m *masters) start(which ...int) {
	m.t.Helper()
	for _, i := range which {
		m.open(i, m.options(i))
	}
	for _, i := range which {
		m.ready(i)
	}
}

func (m *masters) ready(i int) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(m.t, m.live[i].WaitReady(ctx))
}

func (m *masters) stop(i int) {
	m.t.Helper()
	if m.live[i] == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	require.NoError(m.t, m.live[i].Close(ctx))
	m.live[i] = nil
}

// kill ends a master without a word to the others.
func (m *masters) kill(i int) {
	m.t.Helper()
	cluster.HardStop(m.live[i])
	m.stop(i)
}

// leader is the master that leads etcd's Raft, as master `by` sees it.
func (m *masters) leader(by int) int {
	m.t.Helper()
	leader := -1
	require.Eventually(m.t, func() bool {
		views, err := m.live[by].Members(m.t.Context())
		require.NoError(m.t, err)
		for _, v := range views {
			for i, voter := range m.voters {
				if v.Leader && v.Address == voter.Address && m.live[i] != nil {
					leader = i
				}
			}
		}
		return leader >= 0
	}, 30*time.Second, 10*time.Millisecond)
	return leader
}

func put(t *testing.T, kv cluster.KV, key, value string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		outcome, err := kv.Commit(t.Context(), nil, []cluster.Write{{Key: key, Value: []byte(value)}})
		if err == nil {
			require.True(t, outcome.OK)
			return
		}
		require.True(t, time.Now().Before(deadline), "%v", err)
	}
}

func requireValue(t *testing.T, kv cluster.KV, key, value string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		e, ok, err := kv.Get(t.Context(), key)
		if err == nil {
			require.True(t, ok, "%s is lost", key)
			require.Equal(t, value, string(e.Value))
			return
		}
		require.True(t, time.Now().Before(deadline), "%v", err)
	}
}

func TestThreeMastersThatStartOneByOne(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 3)
	first := m.open(0, m.options(0))
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	err := first.WaitReady(ctx)
	require.ErrorIs(t, err, cluster.ErrNoQuorum)
	require.Equal(t, yr.Communication, yr.CodeOf(err))
	for _, missing := range m.voters[1:] {
		require.ErrorContains(t, err, missing.Name+" ("+missing.Address+")", "the error says who is missing")
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err = first.Get(ctx, "k")
	require.ErrorIs(t, err, cluster.ErrNoQuorum, "a request waits for its own time only")
	require.NoError(t, first.Err(), "waiting is not failing")
	impatient := m.open(1, m.options(1))
	m.kill(0)
	waiting := make(chan error)
	go func() { waiting <- impatient.WaitReady(context.Background()) }()
	m.stop(1)
	require.Equal(t, yr.Communication, yr.CodeOf(<-waiting), "who is closed is not waited for")
	first = m.open(0, m.options(0))

	m.start(1)
	m.ready(0)
	put(t, first, "k", "v")
	m.start(2)
	requireValue(t, m.live[2], "k", "v")
}

func TestMastersDieAndReturn(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 3)
	m.start(0, 1, 2)
	put(t, m.live[0], "before", "1")

	follower := (m.leader(0) + 1) % 3
	m.kill(follower)
	put(t, m.live[(follower+1)%3], "without a follower", "2")
	m.start(follower)
	requireValue(t, m.live[follower], "without a follower", "2")

	leader := m.leader(0)
	m.kill(leader)
	began := time.Now()
	put(t, m.live[(leader+1)%3], "without the leader", "3")
	t.Logf("a write succeeded %v after the leader's death", time.Since(began).Round(time.Millisecond))
	m.start(leader)

	// Two are gone: nothing can be agreed on, and that is said in time.
	survivor := 0
	m.kill(1)
	m.kill(2)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	began = time.Now()
	_, err := m.live[survivor].Commit(ctx, nil, []cluster.Write{{Key: "alone", Value: []byte("x")}})
	require.ErrorIs(t, err, cluster.ErrNoQuorum)
	require.ErrorContains(t, err, "etcd1")
	require.ErrorContains(t, err, "etcd2")
	require.Less(t, time.Since(began), 4*time.Second)
	require.NoError(t, m.live[survivor].Err(), "it may come back")

	m.start(1)
	for key, value := range map[string]string{"before": "1", "without a follower": "2", "without the leader": "3"} {
		requireValue(t, m.live[survivor], key, value)
		requireValue(t, m.live[1], key, value)
	}
	put(t, m.live[survivor], "after", "4")
}

func TestBadPeers(t *testing.T) {
	t.Parallel()
	files := makeCertificates(t)
	three := []cluster.Voter{{Name: "etcd0", Address: "127.0.0.1:1"}, {Name: "etcd1", Address: "127.0.0.2:1"}, {Name: "etcd2", Address: "127.0.0.3:1"}}
	for _, row := range []struct {
		name  string
		peers cluster.Peers
		says  string
	}{
		{"no certificates", cluster.Peers{Address: "127.0.0.1:1", Voters: three}, "values.etcd.auth"},
		{"unreadable certificates", cluster.Peers{Address: "127.0.0.1:1", TLS: cluster.PeerTLS{CertFile: "/a", KeyFile: "/b", CAFile: "/c"}}, "certificates"},
		{"no port", cluster.Peers{Address: "127.0.0.1", TLS: files}, "host:port"},
		{"two", cluster.Peers{Address: "127.0.0.1:1", TLS: files, Voters: three[:2]}, "one, or three"},
		{"not among them", cluster.Peers{Address: "127.0.0.9:1", TLS: files, Voters: three}, "not among"},
		{"another's name", cluster.Peers{Name: "etcd1", Address: "127.0.0.1:1", TLS: files, Voters: three}, "by its name"},
		{"twice", cluster.Peers{Address: "127.0.0.1:1", TLS: files, Voters: append(three[:2:2], three[0])}, "twice"},
	} {
		t.Run(row.name, func(t *testing.T) {
			m := cluster.NewMember(cluster.MemberOptions{Dir: t.TempDir(), Peers: &row.peers})
			err := m.Open(t.Context())
			require.Equal(t, yr.ParamInvalid, yr.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, row.says)
		})
	}
}

func TestAPeerAddressThatCannotBe(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 3)
	taken, err := net.Listen("tcp", m.voters[0].Address)
	require.NoError(t, err)
	defer taken.Close()
	require.Equal(t, yr.AlreadyRunning, yr.CodeOf(cluster.NewMember(m.options(0)).Open(t.Context())))
	o := m.options(1)
	o.Peers.Listen = "192.0.2.1:1" // of nobody
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(cluster.NewMember(o).Open(t.Context())))
}

func TestVoters(t *testing.T) {
	addresses := []string{"10.0.0.1:32380", "[::ffff:10.0.0.2]:32380", "[fd00::3]:32381"}
	voters, self, err := cluster.VotersOf(addresses, "10.0.0.2")
	require.NoError(t, err)
	require.Equal(t, 1, self, "the position of the entry whose ip is this host's")
	require.Equal(t, cluster.Voter{Name: "etcd2", Address: "[fd00::3]:32381"}, voters[2])
	_, _, err = cluster.VotersOf(addresses, "10.0.0.4")
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
	require.ErrorContains(t, err, "values.host_ip")
	_, _, err = cluster.VotersOf([]string{"10.0.0.1"}, "10.0.0.1")
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
	require.True(t, strings.Contains(err.Error(), "peer_port"))
}
