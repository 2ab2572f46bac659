package cluster

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/rs/zerolog"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"yr/pkg/yr"
)

// An endpoint that does not answer pings for this long is left for another.
const (
	pingEvery = 2 * time.Second
	pingWait  = 3 * time.Second
)

// ExternalOptions say where an etcd is that somebody else runs.
type ExternalOptions struct {
	Endpoints []string // host:port, or URLs

	// The client's certificate and the authority of the server's
	// (values.etcd.auth); none speaks in clear. Certificate and key are read again
	// at every connection.
	CertFile, KeyFile, CAFile string

	Username, Password string // if the etcd wants them

	Log zerolog.Logger
}

// External is KV over an etcd that does not belong to yr. Clusters that share one
// are kept apart by Options.TablePrefix.
type External struct {
	etcdKV
	options ExternalOptions
	etcd    *clientv3.Client
	life    context.Context // ends with Close
	end     context.CancelFunc
}

// NewExternal makes a closed External.
func NewExternal(o ExternalOptions) *External {
	x := &External{options: o}
	x.life, x.end = context.WithCancel(context.Background())
	x.etcdKV = etcdKV{connect: x.connect, explain: requestError}
	return x
}

// Open connects and makes one request, so that a wrong address, certificate or
// password is seen now.
func (x *External) Open(ctx context.Context) error {
	o := &x.options
	if len(o.Endpoints) == 0 {
		return yr.E("external etcd", yr.ParamInvalid, "no endpoint is configured")
	}
	secure, err := x.tls()
	if err != nil {
		return yr.Wrap("external etcd", yr.ParamInvalid, err)
	}
	x.etcd, err = clientv3.New(clientv3.Config{
		Endpoints: o.Endpoints, TLS: secure, Username: o.Username, Password: o.Password,
		DialTimeout: requestTimeout, DialKeepAliveTime: pingEvery, DialKeepAliveTimeout: pingWait, PermitWithoutStream: false,
		Context: x.life,
		Logger:  zap.NewNop(),
	})
	if err != nil {
		return requestError("external etcd", err)
	}
	if _, _, err := x.Get(ctx, "/yr/!"); err != nil {
		return err
	}
	return nil
}

func (x *External) tls() (*tls.Config, error) {
	o := &x.options
	if o.CertFile == "" && o.CAFile == "" {
		return nil, nil
	}
	return transport.TLSInfo{CertFile: o.CertFile, KeyFile: o.KeyFile, TrustedCAFile: o.CAFile}.ClientConfig()
}

// connect implements etcdKV.connect.
func (x *External) connect(context.Context) (connection, error) {
	if x.etcd == nil || x.life.Err() != nil {
		return connection{}, errNotOpen
	}
	return connection{client: x.etcd, life: x.life, reign: x.life}, nil
}

// Close ends the connection. It may be called twice.
func (x *External) Close(context.Context) error {
	x.end()
	if x.etcd != nil {
		_ = x.etcd.Close() // says only that its context has ended
	}
	return nil
}
