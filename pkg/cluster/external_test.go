package cluster_test

import (
	"context"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/server/v3/embed"

	"yr/pkg/cluster"
	"yr/pkg/yr"
)

// startEtcd runs an etcd as somebody else would, on loopback, with TLS if dir
// holds certificates, and returns its endpoint.
func startEtcd(t *testing.T, tls *cluster.PeerTLS) string {
	t.Helper()
	c := embed.NewConfig()
	c.Dir = filepath.Join(t.TempDir(), "etcd")
	c.LogLevel = "panic"
	c.UnsafeNoFsync = true
	c.TickMs, c.ElectionMs = 10, 50
	c.ListenPeerUrls, c.AdvertisePeerUrls = nil, []url.URL{{Scheme: "http", Host: "127.0.0.1:1"}}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	scheme := "http"
	if tls != nil {
		scheme = "https"
		c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile = tls.CertFile, tls.KeyFile
		c.ClientTLSInfo.TrustedCAFile, c.ClientTLSInfo.ClientCertAuth = tls.CAFile, true
	}
	c.ListenClientUrls = []url.URL{{Scheme: scheme, Host: freeAddress(t)}}
	c.AdvertiseClientUrls = c.ListenClientUrls
	e, err := embed.StartEtcd(c)
	require.NoError(t, err)
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	return c.ListenClientUrls[0].String()
}

func openExternal(t *testing.T) *cluster.External {
	t.Helper()
	x := cluster.NewExternal(cluster.ExternalOptions{Endpoints: []string{startEtcd(t, nil)}})
	require.NoError(t, x.Open(t.Context()))
	t.Cleanup(func() { require.NoError(t, x.Close(context.Background())) })
	return x
}

func TestAnExternalEtcdWithTLS(t *testing.T) {
	files := makeCertificates(t)
	endpoint := startEtcd(t, &files)
	x := cluster.NewExternal(cluster.ExternalOptions{
		Endpoints: []string{endpoint}, CertFile: files.CertFile, KeyFile: files.KeyFile, CAFile: files.CAFile,
	})
	require.NoError(t, x.Open(t.Context()))
	c := openCluster(t, x, "n1")
	_, claimed, err := c.Names().Claim(t.Context(), "", "", "n", nil)
	require.NoError(t, err)
	require.True(t, claimed)
	require.NoError(t, x.Close(t.Context()))
	require.NoError(t, x.Close(t.Context()))
	_, _, err = c.Names().Find(t.Context(), "", "", "n")
	require.Equal(t, yr.Communication, yr.CodeOf(err))

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	stranger := makeCertificates(t) // of another authority
	x = cluster.NewExternal(cluster.ExternalOptions{
		Endpoints: []string{endpoint}, CertFile: stranger.CertFile, KeyFile: stranger.KeyFile, CAFile: stranger.CAFile,
	})
	require.Equal(t, yr.Communication, yr.CodeOf(x.Open(ctx)))
	require.NoError(t, x.Close(t.Context()))
}

func TestAnExternalEtcdThatIsNotThere(t *testing.T) {
	x := cluster.NewExternal(cluster.ExternalOptions{})
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(x.Open(t.Context())))
	require.NoError(t, x.Close(t.Context()))

	x = cluster.NewExternal(cluster.ExternalOptions{Endpoints: []string{freeAddress(t)}})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.Equal(t, yr.Communication, yr.CodeOf(x.Open(ctx)))
	require.NoError(t, x.Close(t.Context()))

	x = cluster.NewExternal(cluster.ExternalOptions{Endpoints: []string{"127.0.0.1:1"}, CertFile: "/nowhere", KeyFile: "/nowhere", CAFile: "/nowhere"})
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(x.Open(t.Context())))
}
