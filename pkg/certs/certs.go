// Package certs is the certificates of a cluster: an authority, what it issues,
// and TLS configurations that follow their files.
//
// A cluster needs one authority and a certificate for each node:
//
//	ca, err := certs.NewAuthority("certs", time.Now())          // certs/ca.crt, certs/ca.key
//	pair, err := ca.Issue(certs.Request{Name: "n-1", Hosts: []string{"10.0.0.1", "n1.example"}, Now: time.Now()})
//	err = pair.Write("n-1.crt", "n-1.key")
//
// Renewing is issuing again and writing over the old files: a running node's Live
// takes them with the next handshake. To change the authority, put the old and the
// new certificate into one file (WriteBundle) and give that to every node as its
// CA; issue the nodes' certificates anew; then take the old one out of the file.
package certs

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"yr/pkg/yr"
)

// A Pair is a certificate with its key, both PEM.
type Pair struct {
	Cert []byte
	Key  []byte
}

// Write puts the pair into two files, each replaced at once; only the owner may
// read the key. A reader in between sees two files that do not belong together,
// and Live then keeps what it had.
func (p Pair) Write(certFile, keyFile string) error {
	if err := replace(keyFile, p.Key, 0o600); err != nil {
		return err
	}
	return replace(certFile, p.Cert, 0o644)
}

// TLS is the pair as the tls package wants it.
func (p Pair) TLS() (tls.Certificate, error) {
	return tls.X509KeyPair(p.Cert, p.Key)
}

// WriteBundle puts several PEM certificates (or bundles of them) into one file,
// each once.
func WriteBundle(file string, bundles ...[]byte) error {
	seen := map[[sha256.Size]byte]bool{}
	var all []byte
	for _, b := range bundles {
		certs, err := parse(b)
		if err != nil {
			return yr.Wrap("certs: bundle for "+file, yr.ParamInvalid, err)
		}
		for _, c := range certs {
			if sum := sha256.Sum256(c.Raw); !seen[sum] {
				seen[sum] = true
				all = append(all, encodeCert(c.Raw)...)
			}
		}
	}
	return replace(file, all, 0o644)
}

// Details is what a person wants to know of a certificate.
type Details struct {
	Name        string    `json:"name"`
	Issuer      string    `json:"issuer"`
	Hosts       []string  `json:"hosts,omitempty"`
	Authority   bool      `json:"authority"`
	Begins      time.Time `json:"begins"`
	Ends        time.Time `json:"ends"`
	Fingerprint string    `json:"fingerprint"` // SHA-256, hexadecimal
}

// Inspect shows every certificate in a file.
func Inspect(file string) ([]Details, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, yr.Wrap("certs: inspect", yr.ParamInvalid, err)
	}
	certs, err := parse(b)
	if err != nil {
		return nil, yr.Wrap("certs: inspect "+file, yr.ParamInvalid, err)
	}
	all := make([]Details, 0, len(certs))
	for _, c := range certs {
		sum := sha256.Sum256(c.Raw)
		d := Details{Name: c.Subject.CommonName, Issuer: c.Issuer.CommonName, Hosts: c.DNSNames,
			Authority: c.IsCA, Begins: c.NotBefore, Ends: c.NotAfter, Fingerprint: hex.EncodeToString(sum[:])}
		for _, ip := range c.IPAddresses {
			d.Hosts = append(d.Hosts, ip.String())
		}
		all = append(all, d)
	}
	return all, nil
}

// Files are the places of what one end needs for mutual TLS, all PEM.
type Files struct {
	CA   string // one or more authorities that are believed
	Cert string // own certificate, with intermediate ones if there are any
	Key  string
}

// Verify says what a node that used these files would be refused for: a pair that
// does not fit, a certificate of another authority, one that is over or not yet good.
func Verify(f Files, now time.Time) error {
	loaded, err := load(f)
	if err != nil {
		return err
	}
	leaf := loaded.pair.Leaf
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if err := chain(loaded.chain(), loaded.pool, usage, now); err != nil {
			return yr.Wrap(fmt.Sprintf("certs: %s (%q, good until %s)", f.Cert, leaf.Subject.CommonName, leaf.NotAfter.UTC().Format(time.RFC3339)), yr.Unauthorized, err)
		}
	}
	return nil
}

// chain verifies presented certificates, the first of which is the peer's own.
func chain(certs []*x509.Certificate, pool *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) error {
	if len(certs) == 0 {
		return errors.New("no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: between,
		KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: now})
	return err
}

// loaded is the content of Files.
type loaded struct {
	pair tls.Certificate
	pool *x509.CertPool
}

func (l *loaded) chain() []*x509.Certificate {
	certs := make([]*x509.Certificate, 0, len(l.pair.Certificate))
	for _, der := range l.pair.Certificate {
		if c, err := x509.ParseCertificate(der); err == nil { // X509KeyPair looked at the first one only
			certs = append(certs, c)
		}
	}
	return certs
}

func load(f Files) (*loaded, error) {
	ca, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, yr.Wrap("certs: read the authority", yr.ParamInvalid, err)
	}
	authorities, err := parse(ca)
	if err != nil {
		return nil, yr.Wrap("certs: "+f.CA, yr.ParamInvalid, err)
	}
	l := &loaded{pool: x509.NewCertPool()}
	for _, c := range authorities {
		l.pool.AddCert(c)
	}
	if l.pair, err = tls.LoadX509KeyPair(f.Cert, f.Key); err != nil {
		return nil, yr.Wrap("certs: "+f.Cert+" with "+f.Key, yr.ParamInvalid, err)
	}
	return l, nil
}

// parse reads every certificate of a PEM text; there must be one.
func parse(b []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("there is no PEM certificate in it")
	}
	return certs, nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// names sorts hosts into addresses and names.
func names(hosts []string) (ips []net.IP, dns []string, err error) {
	for _, h := range hosts {
		ip := net.ParseIP(h)
		switch {
		case ip != nil:
			ips = append(ips, ip)
		case h == "":
			return nil, nil, errors.New("an empty host")
		default:
			dns = append(dns, h)
		}
	}
	return ips, dns, nil
}

// replace writes a file so that a reader sees the old content or the new one.
func replace(file string, b []byte, mode os.FileMode) error {
	fail := func(err error) error { return yr.Wrap("certs: write "+file, yr.DiskFailed, err) }
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // mode 0600
	if err != nil {
		return fail(err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}
