package certs_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"yr/pkg/certs"
	"yr/pkg/yr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Now()

// authority makes one in a directory of its own.
func authority(t *testing.T) (a *certs.Authority, caFile string) {
	t.Helper()
	dir := t.TempDir()
	a, err := certs.NewAuthority(dir, now)
	require.NoError(t, err)
	return a, filepath.Join(dir, certs.AuthorityCert)
}

// node issues a certificate into files.
func node(t *testing.T, a *certs.Authority, caFile string) certs.Files {
	t.Helper()
	dir := t.TempDir()
	f := certs.Files{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "node.crt"), Key: filepath.Join(dir, "node.key")}
	ca, err := os.ReadFile(caFile)
	require.NoError(t, err)
	require.NoError(t, certs.WriteBundle(f.CA, ca))
	issue(t, a, f)
	return f
}

func issue(t *testing.T, a *certs.Authority, f certs.Files) {
	t.Helper()
	pair, err := a.Issue(certs.Request{Name: "n-1", Hosts: []string{"127.0.0.1", "n1.example"}, Now: now})
	require.NoError(t, err)
	require.NoError(t, pair.Write(f.Cert, f.Key))
}

// provider is one end of a connection.
type provider interface {
	Server() (*tls.Config, error)
	Client() (*tls.Config, error)
}

// shake makes a connection between two ends and says how each saw it go.
func shake(t *testing.T, server, client provider) (serverErr, clientErr error) {
	t.Helper()
	scfg, err := server.Server()
	require.NoError(t, err)
	ccfg, err := client.Client()
	require.NoError(t, err)
	ccfg = ccfg.Clone()
	ccfg.ServerName = "127.0.0.1"
	s, c := connection(t)
	done := make(chan error, 1)
	go func() {
		sc := tls.Server(s, scfg)
		err := sc.Handshake()
		if err == nil {
			_, err = sc.Write([]byte("x"))
		}
		done <- err
		_ = s.Close()
	}()
	cc := tls.Client(c, ccfg)
	if clientErr = cc.Handshake(); clientErr == nil {
		_, clientErr = io.ReadFull(cc, make([]byte, 1)) // in TLS 1.3 a client learns here that it was refused
	}
	_ = c.Close()
	return <-done, clientErr
}

// connection is a pair of sockets that give up in time.
func connection(t *testing.T) (server, client net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	client, err = net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	server, err = ln.Accept()
	require.NoError(t, err)
	for _, c := range []net.Conn{server, client} {
		require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	}
	return server, client
}

func good(t *testing.T, server, client provider) {
	t.Helper()
	s, c := shake(t, server, client)
	require.NoError(t, s)
	require.NoError(t, c)
}

func refused(t *testing.T, server, client provider) {
	t.Helper()
	s, c := shake(t, server, client)
	require.Error(t, errors.Join(s, c))
}

func open(t *testing.T, f certs.Files, opt certs.LiveOptions) *certs.Live {
	t.Helper()
	l, err := certs.Open(f, opt)
	require.NoError(t, err)
	return l
}

func TestAnAuthorityIssuesForBothEnds(t *testing.T) {
	a, ca := authority(t)
	x, y := node(t, a, ca), node(t, a, ca)
	require.NoError(t, certs.Verify(x, now))
	good(t, open(t, x, certs.LiveOptions{}), open(t, y, certs.LiveOptions{CheckHosts: true}))

	details, err := certs.Inspect(x.Cert)
	require.NoError(t, err)
	require.Len(t, details, 1)
	require.Equal(t, "n-1", details[0].Name)
	require.ElementsMatch(t, []string{"127.0.0.1", "n1.example"}, details[0].Hosts)
	require.False(t, details[0].Authority)
	require.WithinDuration(t, now.Add(certs.DefaultLife), details[0].Ends, time.Second)
	require.Len(t, details[0].Fingerprint, 64)

	st, err := os.Stat(x.Key)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
	st, err = os.Stat(filepath.Join(filepath.Dir(ca), certs.AuthorityKey))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
}

func TestAnAuthorityIsOpenedAgainButNeverReplaced(t *testing.T) {
	a, ca := authority(t)
	dir := filepath.Dir(ca)
	_, err := certs.NewAuthority(dir, now)
	require.Equal(t, yr.KeyExists, yr.CodeOf(err))
	again, err := certs.OpenAuthority(dir)
	require.NoError(t, err)
	require.Equal(t, a.PEM(), again.PEM())
	require.NoError(t, certs.Verify(node(t, again, ca), now))

	_, err = certs.OpenAuthority(t.TempDir())
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
	f := node(t, a, ca)
	require.NoError(t, os.Rename(f.Cert, f.CA))
	require.NoError(t, os.Rename(f.Key, filepath.Join(filepath.Dir(f.CA), certs.AuthorityKey)))
	_, err = certs.OpenAuthority(filepath.Dir(f.CA))
	require.ErrorContains(t, err, "but not an authority's")
}

func TestRequestsAreChecked(t *testing.T) {
	a, _ := authority(t)
	for name, r := range map[string]certs.Request{
		"no name":                 {Now: now},
		"an empty host":           {Name: "n", Hosts: []string{""}, Now: now},
		"after the authority":     {Name: "n", Now: now.Add(20 * 365 * 24 * time.Hour)},
		"a life that is negative": {Name: "n", Life: -time.Hour, Now: now},
	} {
		_, err := a.Issue(r)
		require.Equal(t, yr.ParamInvalid, yr.CodeOf(err), name)
	}
	pair, err := a.Issue(certs.Request{Name: "n", Life: 100 * 365 * 24 * time.Hour, Now: now})
	require.NoError(t, err)
	c, err := pair.TLS()
	require.NoError(t, err)
	require.True(t, c.Leaf.NotAfter.Before(now.Add(11*365*24*time.Hour)), "not longer than the authority")
}

func TestVerifySaysWhatIsWrong(t *testing.T) {
	a, ca := authority(t)
	_, otherCA := authority(t)
	f := node(t, a, ca)
	other := f
	other.CA = otherCA
	require.Equal(t, yr.Unauthorized, yr.CodeOf(certs.Verify(other, now)))
	require.ErrorContains(t, certs.Verify(f, now.Add(2*certs.DefaultLife)), "expired")
	require.ErrorContains(t, certs.Verify(f, now.Add(-48*time.Hour)), "not yet valid")
	mixed := f
	mixed.Key = node(t, a, ca).Key
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(certs.Verify(mixed, now)))
	for _, missing := range []certs.Files{{}, {CA: f.CA}, {CA: f.Key, Cert: f.Cert, Key: f.Key}} {
		require.Equal(t, yr.ParamInvalid, yr.CodeOf(certs.Verify(missing, now)))
		_, err := certs.Open(missing, certs.LiveOptions{})
		require.Error(t, err)
	}
	_, err := certs.Inspect(f.Key)
	require.ErrorContains(t, err, "no PEM certificate")
}

func TestStrangersAreRefused(t *testing.T) {
	a, ca := authority(t)
	b, otherCA := authority(t)
	ours, theirs := open(t, node(t, a, ca), certs.LiveOptions{}), open(t, node(t, b, otherCA), certs.LiveOptions{})
	refused(t, ours, theirs)
	refused(t, theirs, ours)
	refused(t, ours, bare{ours})
	good(t, open(t, node(t, a, ca), certs.LiveOptions{OptionalClient: true}), bare{ours})
}

// bare shows no certificate as a client.
type bare struct{ provider }

func (b bare) Client() (*tls.Config, error) {
	cfg, err := b.provider.Client()
	cfg.Certificates = nil
	return cfg, err
}

func TestHostsAreCheckedWhereThatIsAskedFor(t *testing.T) {
	a, ca := authority(t)
	f := node(t, a, ca)
	pair, err := a.Issue(certs.Request{Name: "elsewhere", Hosts: []string{"10.9.8.7"}, Now: now})
	require.NoError(t, err)
	require.NoError(t, pair.Write(f.Cert, f.Key))
	server := open(t, f, certs.LiveOptions{})
	good(t, server, open(t, node(t, a, ca), certs.LiveOptions{}))
	refused(t, server, open(t, node(t, a, ca), certs.LiveOptions{CheckHosts: true}))
}

// leaf is the certificate that a server would show now.
func leaf(t *testing.T, l *certs.Live) *x509.Certificate {
	t.Helper()
	cfg, err := l.Server()
	require.NoError(t, err)
	return cfg.Certificates[0].Leaf
}

func TestARenewedCertificateIsTakenWithoutARestart(t *testing.T) {
	a, ca := authority(t)
	f := node(t, a, ca)
	l, peer := open(t, f, certs.LiveOptions{}), open(t, node(t, a, ca), certs.LiveOptions{})
	fixed := l.Config() // as an http.Server would hold it
	first := leaf(t, l)
	issue(t, a, f)
	require.NotEqual(t, first.SerialNumber, leaf(t, l).SerialNumber)
	good(t, l, peer)
	good(t, peer, l)
	cfg, err := fixed.GetConfigForClient(nil)
	require.NoError(t, err)
	require.Equal(t, leaf(t, l).SerialNumber, cfg.Certificates[0].Leaf.SerialNumber)
}

func TestFilesThatDoNotFitChangeNothing(t *testing.T) {
	a, ca := authority(t)
	f := node(t, a, ca)
	l := open(t, f, certs.LiveOptions{})
	first := leaf(t, l)
	other := node(t, a, ca)
	cert, err := os.ReadFile(other.Cert)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(f.Cert, cert, 0o600)) // its key is still to come
	require.Equal(t, first.SerialNumber, leaf(t, l).SerialNumber)
	require.Error(t, l.Err())
	key, err := os.ReadFile(other.Key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(f.Key, key, 0o600))
	require.NotEqual(t, first.SerialNumber, leaf(t, l).SerialNumber)
	require.NoError(t, l.Err())
	require.NoError(t, os.Remove(f.CA))
	require.NotEqual(t, first.SerialNumber, leaf(t, l).SerialNumber)
	require.ErrorIs(t, l.Err(), os.ErrNotExist)
}

func TestAnAuthorityIsRotatedByABundle(t *testing.T) {
	a, ca := authority(t)
	b, _ := authority(t)
	f, g := node(t, a, ca), node(t, a, ca)
	x, y := open(t, f, certs.LiveOptions{}), open(t, g, certs.LiveOptions{})
	for _, file := range []string{f.CA, g.CA} { // both believe in both
		require.NoError(t, certs.WriteBundle(file, a.PEM(), b.PEM(), a.PEM()))
		details, err := certs.Inspect(file)
		require.NoError(t, err)
		require.Len(t, details, 2)
		good(t, x, y)
		good(t, y, x)
	}
	for _, files := range []certs.Files{f, g} { // each gets a certificate of the new one
		issue(t, b, files)
		good(t, x, y)
		good(t, y, x)
	}
	for _, file := range []string{f.CA, g.CA} { // nobody believes in the old one
		require.NoError(t, certs.WriteBundle(file, b.PEM()))
		good(t, x, y)
		good(t, y, x)
	}
	old := open(t, node(t, a, ca), certs.LiveOptions{})
	refused(t, x, old)
	refused(t, old, x)
	require.Error(t, certs.WriteBundle(f.CA, []byte("nothing")))
}

func TestMembersDeriveOneAuthorityFromTheToken(t *testing.T) {
	x, err := certs.FromToken("a token", []string{"127.0.0.1"})
	require.NoError(t, err)
	y, err := certs.FromToken("a token", []string{"127.0.0.1", "m2.example"})
	require.NoError(t, err)
	require.Equal(t, string(x.CA), string(y.CA), "to the byte")
	require.NotEqual(t, x.Key, y.Key, "the members' own keys are their own")
	z, err := certs.FromToken("another token", []string{"127.0.0.1"})
	require.NoError(t, err)
	require.NotEqual(t, string(x.CA), string(z.CA))

	live := map[*certs.Identity]*certs.Live{}
	for _, id := range []*certs.Identity{x, y, z} {
		f, err := id.Write(filepath.Join(t.TempDir(), "tls"))
		require.NoError(t, err)
		require.NoError(t, certs.Verify(f, now))
		require.NoError(t, certs.Verify(f, now.Add(-5*365*24*time.Hour)), "clocks do not matter")
		live[id] = open(t, f, certs.LiveOptions{CheckHosts: true})
	}
	good(t, live[x], live[y])
	good(t, live[y], live[x])
	refused(t, live[x], live[z])
	refused(t, live[z], live[x])
	_, err = certs.FromToken("", nil)
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
}

func FuzzInspect(f *testing.F) {
	id, err := certs.FromToken("t", []string{"h"})
	require.NoError(f, err)
	f.Add(id.CA)
	f.Add(append(id.Cert, id.Key...))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"))
	file := filepath.Join(f.TempDir(), "x.crt")
	f.Fuzz(func(t *testing.T, b []byte) {
		require.NoError(t, os.WriteFile(file, b, 0o600))
		details, err := certs.Inspect(file)
		require.Equal(t, err == nil, len(details) > 0)
	})
}
