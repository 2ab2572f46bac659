package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"time"

	"yr/pkg/yr"
)

// alpn names the protocol inside TLS, so that an acceptor can tell nodes from
// HTTP clients without a look at what they say.
const alpn = "yrp1"

// dial makes an authenticated connection. The error of a refusal is typed.
func (p *Peers) dial(ctx context.Context, address, protocol string, expect yr.Node, own identity) (*socket, *message, error) {
	if p.opt.Token == "" {
		return nil, nil, yr.E("peer: connect", yr.ParamInvalid, "a node needs its cluster's token to talk to others")
	}
	ctx, cancel := context.WithTimeout(ctx, p.pace.dial)
	defer cancel()
	stop := context.AfterFunc(p.ctx, cancel)
	defer stop()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, nil, yr.Wrap("peer: connect", yr.Communication, err)
	}
	tcp := conn.(*net.TCPConn)
	sock, welcome, err := p.introduce(ctx, tcp, address, protocol, expect, own)
	if err != nil {
		_ = tcp.Close()
		return nil, nil, yr.Wrap("peer: connect to "+address, yr.Communication, err)
	}
	return sock, welcome, nil
}

// introduce is the dialing side of TLS and the handshake, within ctx.
func (p *Peers) introduce(ctx context.Context, tcp *net.TCPConn, address, protocol string, expect yr.Node, own identity) (*socket, *message, error) {
	release := context.AfterFunc(ctx, func() { _ = tcp.SetDeadline(time.Unix(1, 0)) })
	sock, err := p.secure(ctx, tcp, address)
	if err != nil {
		release()
		return nil, nil, err
	}
	welcome, err := p.greet(sock.Conn, own, protocol, expect)
	if !release() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(err, cause)
		}
		return nil, nil, err
	}
	return sock, welcome, nil
}

// secure wraps a dialed connection in TLS if that is configured.
func (p *Peers) secure(ctx context.Context, tcp *net.TCPConn, address string) (*socket, error) {
	if p.opt.TLS == nil {
		return plainSocket(tcp)
	}
	cfg, err := p.opt.TLS.Client()
	if err != nil {
		return nil, err
	}
	cfg = cfg.Clone()
	cfg.NextProtos = []string{alpn}
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = net.SplitHostPort(address)
	}
	var tc *tls.Conn
	sock, err := tlsSocket(tcp, func(c net.Conn) *tls.Conn { tc = tls.Client(c, cfg); return tc })
	if err != nil {
		return nil, err
	}
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, explainTLS(err)
	}
	return sock, nil
}

// explainTLS gives a failed TLS handshake its code.
func explainTLS(err error) error {
	var record tls.RecordHeaderError
	var invalid *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var alert tls.AlertError
	switch {
	case errors.As(err, &record), errors.Is(err, io.EOF):
		e := refuse(refusedPlain, "the other end does not speak TLS; configure it on every node or on none (%v)", err)
		return e
	case errors.As(err, &invalid), errors.As(err, &unknown), errors.As(err, &alert):
		return yr.Wrap("tls", yr.Unauthorized, err)
	}
	return err
}
