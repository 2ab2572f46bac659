package cluster_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/certs"
	"yr/pkg/cluster"
	"yr/pkg/yr"
)

// handshake returns the certificate that a master shows to one with these files.
func handshake(t *testing.T, address string, files cluster.PeerTLS) (*x509.Certificate, error) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	require.NoError(t, err)
	authority, err := os.ReadFile(files.CAFile)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(authority))
	c, err := tls.Dial("tcp", address, &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, MinVersion: tls.VersionTLS12})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("GET /version HTTP/1.0\r\n\r\n")); err != nil {
		return nil, err
	}
	if _, err := c.Read(make([]byte, 1)); err != nil { // with TLS 1.3 a refusal comes after the handshake
		return nil, err
	}
	return c.ConnectionState().PeerCertificates[0], nil
}

func TestPeersProveThemselves(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 1)
	m.open(0, m.alone(0))
	_, err := m.live[0].AddMember(t.Context(), "etcd1", freeAddress(t))
	require.NoError(t, err)
	before, err := handshake(t, m.voters[0].Address, m.files)
	require.NoError(t, err)

	stranger := makeCertificates(t)
	stranger.CAFile = m.files.CAFile
	_, err = handshake(t, m.voters[0].Address, stranger)
	require.Error(t, err, "a certificate of another authority is refused")

	// New certificates take effect without a restart.
	m.issuer.issue(t, m.files)
	after, err := handshake(t, m.voters[0].Address, m.files)
	require.NoError(t, err)
	require.NotEqual(t, before.Raw, after.Raw)
}

// The daemon's view of one of several masters: it opens, and says when it is ready.
func TestClusterOfSeveral(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 3)
	var clusters []*cluster.Cluster
	for i := range 3 {
		// Nobody has configured certificates: each derives its own from the token.
		id, err := certs.FromToken("the token", []string{"yr-master"})
		require.NoError(t, err)
		files, err := id.Write(t.TempDir())
		require.NoError(t, err)
		peers := m.options(i).Peers
		peers.TLS = cluster.PeerTLS{CertFile: files.Cert, KeyFile: files.Key, CAFile: files.CA, ServerName: "yr-master"}
		c := cluster.New(cluster.Options{Dir: m.dirs[i], Node: yr.Node(m.voters[i].Name), Peers: peers})
		require.NoError(t, c.Open(t.Context()))
		defer func() { require.NoError(t, c.Close(context.Background())) }()
		clusters = append(clusters, c)
		if i == 0 {
			select {
			case <-c.Ready():
				require.Fail(t, "one of three cannot be ready")
			default:
			}
		}
	}
	for _, c := range clusters {
		require.NoError(t, c.WaitReady(t.Context()))
		<-c.Ready()
		require.Zero(t, c.Leader().Epoch(), "nobody leads because it has opened")
		_, _, err := c.Names().Claim(t.Context(), "", "", "n", nil)
		require.ErrorIs(t, err, cluster.ErrStale)
	}
	_, err := clusters[1].Leader().TakeOver(t.Context())
	require.NoError(t, err)
	w := clusters[0].Watch(t.Context(), cluster.PartLeader, 0)
	<-w
	_, err = clusters[2].Leader().TakeOver(t.Context())
	require.NoError(t, err)
	require.Len(t, (<-w).Events, 1, "the others see who leads now")
	require.ErrorIs(t, clusters[1].Config().Set(t.Context(), "s", 1), cluster.ErrStale)
	require.NoError(t, clusters[2].Config().Set(t.Context(), "s", 1))
	require.NotNil(t, clusters[0].Member())
}
