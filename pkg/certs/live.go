package certs

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"sync"
	"syscall"
	"time"
)

// Live gives TLS configurations that follow their files: each handshake sees what
// the files say at that moment, so certificates and authorities are rotated by
// writing files. Files that do not fit together, or cannot be read, change
// nothing: the last good ones stay in use, and Err says what is wrong.
//
// Connections that exist are not touched by a rotation.
type Live struct {
	files Files
	opt   LiveOptions

	mu      sync.Mutex
	current *loaded
	stamps  [3]stamp // of the files that current came from
	err     error
}

// LiveOptions change what is asked of the other end. The zero value is right
// between nodes.
type LiveOptions struct {
	// OptionalClient lets clients without a certificate in; one that is shown must
	// be good. For a port that serves browsers too.
	OptionalClient bool
	// CheckHosts makes a client compare the address that it dialed with the hosts
	// in the server's certificate. Without it every node of the authority is
	// believed at every address; nodes prove themselves by the token as well.
	CheckHosts bool
}

// stamp tells whether a file has changed.
type stamp struct {
	changed time.Time
	size    int64
	inode   uint64
}

// Open reads the files, so that what is wrong with them is known at the start.
func Open(files Files, opt LiveOptions) (*Live, error) {
	l := &Live{files: files, opt: opt}
	l.refresh()
	if l.current == nil {
		return nil, l.err
	}
	return l, nil
}

// Err is why the files as they are now are not in use, nil if they are.
func (l *Live) Err() error {
	l.refresh()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Server is the configuration for the next connection that this end accepts.
func (l *Live) Server() (*tls.Config, error) {
	now := l.refresh()
	auth := tls.RequireAndVerifyClientCert
	if l.opt.OptionalClient {
		auth = tls.VerifyClientCertIfGiven
	}
	return &tls.Config{
		Certificates: []tls.Certificate{now.pair}, ClientCAs: now.pool, ClientAuth: auth,
		MinVersion: tls.VersionTLS12,
		// A ticket would let a client in whose authority was taken out of the file.
		SessionTicketsDisabled: true,
	}, nil
}

// Client is the configuration for the next connection that this end makes.
func (l *Live) Client() (*tls.Config, error) {
	now := l.refresh()
	cfg := &tls.Config{Certificates: []tls.Certificate{now.pair}, RootCAs: now.pool, MinVersion: tls.VersionTLS13}
	if !l.opt.CheckHosts {
		cfg.InsecureSkipVerify = true // of the host's name only: VerifyConnection verifies the certificate
		cfg.VerifyConnection = func(s tls.ConnectionState) error {
			if err := chain(s.PeerCertificates, now.pool, x509.ExtKeyUsageServerAuth, time.Time{}); err != nil {
				return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
			}
			return nil
		}
	}
	return cfg, nil
}

// Config is a server's configuration that need not be asked for again: it looks
// at the files with every handshake. For http.Server and the like.
func (l *Live) Config() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return l.Server() },
	}
}

// refresh returns what is in use, after a look at the files.
func (l *Live) refresh() *loaded {
	l.mu.Lock()
	defer l.mu.Unlock()
	stamps, err := l.look()
	if err == nil && l.current != nil && stamps == l.stamps {
		l.err = nil
		return l.current
	}
	if err == nil {
		var now *loaded
		if now, err = load(l.files); err == nil {
			l.current, l.stamps = now, stamps
		}
	}
	l.err = err
	return l.current
}

// look reads the stamps, before the files: a file that changes in between is read again.
func (l *Live) look() (s [3]stamp, err error) {
	for i, name := range []string{l.files.CA, l.files.Cert, l.files.Key} {
		st, err := os.Stat(name)
		if err != nil {
			return s, err
		}
		s[i] = stamp{changed: st.ModTime(), size: st.Size()}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			s[i].inode = sys.Ino
		}
	}
	return s, nil
}
