package certs

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"yr/pkg/yr"
)

// A certificate from the token says what the token says: its owner belongs to the
// cluster. The token has no end, so these certificates have none in practice, and
// a node with a wrong clock is not locked out.
var (
	tokenBegins = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	tokenEnds   = time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC)
)

// An Identity is what FromToken makes: an authority that every node with the same
// token derives to the byte, and a certificate of this node's own.
type Identity struct {
	CA []byte // PEM
	Pair
}

// FromToken derives the cluster's authority from its token, and issues a
// certificate for a node that is reached at hosts. It is for mutual TLS between
// members of embedded etcd where nobody has configured certificates. The key of
// the authority is Ed25519, its seed HKDF-SHA256 of the token; it is not kept.
func FromToken(token string, hosts []string) (*Identity, error) {
	if token == "" {
		return nil, yr.E("certs: from token", yr.ParamInvalid, "the cluster's token is empty")
	}
	seed, err := hkdf.Key(sha256.New, []byte(token), nil, "yr authority of the token 1", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	key := ed25519.NewKeyFromSeed(seed)
	id := sha256.Sum256(key.Public().(ed25519.PublicKey))
	t := authorityTemplate("yr token "+hex.EncodeToString(id[:4]), tokenBegins, tokenEnds)
	t.SerialNumber = big.NewInt(1)
	t.SubjectKeyId = id[:20] // given, so that it depends on no library
	ca, err := signAuthority(t, key)
	if err != nil {
		return nil, err
	}
	_, own, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	pair, err := ca.issue(Request{Name: "yr member", Hosts: hosts}, own, tokenBegins, tokenEnds)
	return &Identity{CA: ca.PEM(), Pair: pair}, err
}

// Write puts the identity into dir, which is made if needed, as ca.crt, node.crt
// and node.key, for software that wants files.
func (id *Identity) Write(dir string) (Files, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Files{}, yr.Wrap("certs: write", yr.DiskFailed, err)
	}
	f := Files{CA: filepath.Join(dir, AuthorityCert), Cert: filepath.Join(dir, "node.crt"), Key: filepath.Join(dir, "node.key")}
	if err := replace(f.CA, id.CA, 0o644); err != nil {
		return Files{}, err
	}
	return f, id.Pair.Write(f.Cert, f.Key)
}
