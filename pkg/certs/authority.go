package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"yr/pkg/yr"
)

// The files of an authority in its directory.
const (
	AuthorityCert = "ca.crt"
	AuthorityKey  = "ca.key" // mode 0600; whoever has it can make nodes
)

const (
	// authorityLife is how long an authority is good: changing it means touching every node.
	authorityLife = 10 * 365 * 24 * time.Hour
	// DefaultLife is how long a node's certificate is good if nothing else is asked for.
	DefaultLife = 365 * 24 * time.Hour
	// slack is how far the clock of another node may be behind.
	slack = time.Hour
)

// An Authority makes certificates. Its keys are ECDSA P-256, which browsers and
// older TLS libraries know too.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority makes an authority and writes it to dir, which is made if needed.
// It does not replace one that is there.
func NewAuthority(dir string, now time.Time) (*Authority, error) {
	certFile, keyFile := filepath.Join(dir, AuthorityCert), filepath.Join(dir, AuthorityKey)
	for _, f := range []string{certFile, keyFile} {
		if _, err := os.Lstat(f); err == nil {
			return nil, yr.E("certs: new authority", yr.KeyExists, "%s exists; nodes may rely on it. Make the new authority in another directory", f)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, yr.Wrap("certs: new authority", yr.DiskFailed, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := authorityTemplate("yr cluster "+hex.EncodeToString(serial.Bytes()[:4]), now.Add(-slack), now.Add(authorityLife))
	t.SerialNumber = serial
	a, err := signAuthority(t, key)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return a, Pair{Cert: a.PEM(), Key: keyPEM}.Write(certFile, keyFile)
}

// OpenAuthority reads the authority that NewAuthority wrote.
func OpenAuthority(dir string) (*Authority, error) {
	fail := func(err error) (*Authority, error) {
		return nil, yr.Wrap("certs: open the authority in "+dir, yr.ParamInvalid, err)
	}
	certPEM, err := os.ReadFile(filepath.Join(dir, AuthorityCert))
	if err != nil {
		return fail(err)
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, AuthorityKey))
	if err != nil {
		return fail(err)
	}
	pair, err := Pair{Cert: certPEM, Key: keyPEM}.TLS()
	if err != nil {
		return fail(err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return fail(errors.New("it is a certificate, but not an authority's"))
	}
	return &Authority{cert: pair.Leaf, key: key}, nil
}

// PEM is the authority's certificate: what others must have to believe in it.
func (a *Authority) PEM() []byte { return encodeCert(a.cert.Raw) }

// A Request is what a certificate is asked for.
type Request struct {
	Name  string        // of the node, for people
	Hosts []string      // IP addresses and host names at which it is reached
	Life  time.Duration // 0: DefaultLife; never longer than the authority's
	Now   time.Time
}

// Issue makes a certificate with a key of its own, good for both ends of a
// connection.
func (a *Authority) Issue(r Request) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	if r.Life == 0 {
		r.Life = DefaultLife
	}
	ends := r.Now.Add(r.Life)
	if ends.After(a.cert.NotAfter) {
		ends = a.cert.NotAfter
	}
	if !ends.After(r.Now) {
		return Pair{}, yr.E("certs: issue", yr.ParamInvalid, "a certificate for %q would end at %s; the authority's own ends at %s", r.Name, ends.UTC().Format(time.RFC3339), a.cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return a.issue(r, key, r.Now.Add(-slack), ends)
}

func (a *Authority) issue(r Request, key crypto.Signer, begins, ends time.Time) (Pair, error) {
	ips, dns, err := names(r.Hosts)
	if err != nil || r.Name == "" {
		return Pair{}, yr.E("certs: issue", yr.ParamInvalid, "name %q, hosts %q: want a name, and hosts that are addresses or names", r.Name, r.Hosts)
	}
	serial, err := newSerial()
	if err != nil {
		return Pair{}, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: r.Name},
		NotBefore: begins, NotAfter: ends, IPAddresses: ips, DNSNames: dns,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("certs: issue: %w", err)
	}
	keyPEM, err := encodeKey(key)
	return Pair{Cert: encodeCert(der), Key: keyPEM}, err
}

// authorityTemplate is an authority that signs nodes and nothing else.
func authorityTemplate(name string, begins, ends time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: begins, NotAfter: ends,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func signAuthority(t *x509.Certificate, key crypto.Signer) (*Authority, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certs: sign the authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	return &Authority{cert: cert, key: key}, err
}

// newSerial is a random serial number of 16 bytes, the first of which is not 0.
func newSerial() (*big.Int, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:]), nil
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("certs: encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
