package cli

import (
	"errors"
	"os"
	"path/filepath"

	"yr/pkg/certs"
	"yr/pkg/yr"
)

// A new authority follows the old one in three steps, so that at every moment
// every node believes every other, whichever of its files it has already:
//
//	begin   every node is to believe both authorities
//	switch  every node gets a certificate of the new one
//	finish  every node believes the new one only
//
// After each step the nodes' directories are copied to the nodes.

const copyAdvice = "Copy every node's directory to it, which takes effect without a restart"

// RotateBegin makes the next authority, and lets the nodes believe both.
func (c Certificates) RotateBegin(out *Output) error {
	names, err := c.nodes()
	if err != nil {
		return err
	}
	next := filepath.Join(c.Dir, nextDir)
	if _, err := certs.OpenAuthority(next); err != nil { // a second time continues the first
		if _, err := certs.NewAuthority(next, c.Now()); err != nil {
			return err
		}
	}
	if err := c.believe(names, c.Dir, next); err != nil {
		return err
	}
	out.Printf("the nodes' ca.crt hold both authorities. %s.\nThen: yr cert rotate switch --dir %s\n", copyAdvice, c.Dir)
	return nil
}

// RotateSwitch issues the nodes' certificates from the next authority.
func (c Certificates) RotateSwitch(out *Output) error {
	next := filepath.Join(c.Dir, nextDir)
	authority, err := certs.OpenAuthority(next)
	if err != nil {
		return yr.E("cert rotate switch", yr.ParamInvalid, "there is no authority in %s; `yr cert rotate begin` makes it (%v)", next, err)
	}
	names, err := c.nodes()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.renew(authority, name, 0); err != nil {
			return err
		}
	}
	out.Printf("the nodes' certificates are of the new authority. %s.\nThen: yr cert rotate finish --dir %s\n", copyAdvice, c.Dir)
	return nil
}

// RotateFinish puts the next authority in the place of the old one, which is
// kept as ca.crt.old and ca.key.old.
func (c Certificates) RotateFinish(out *Output) error {
	next := filepath.Join(c.Dir, nextDir)
	if !c.switched() {
		return yr.E("cert rotate finish", yr.ParamInvalid, "some node's certificate is of the old authority still; `yr cert rotate switch` issues it anew")
	}
	names, err := c.nodes()
	if err != nil {
		return err
	}
	if err := c.believe(names, next); err != nil {
		return err
	}
	// The certificate last: until it is moved, a second call does the rest.
	for _, name := range []string{certs.AuthorityKey, certs.AuthorityCert} {
		old, fresh := filepath.Join(c.Dir, name), filepath.Join(next, name)
		if _, err := os.Lstat(fresh); err != nil {
			continue
		}
		err := os.Rename(old, old+".old")
		if err == nil || errors.Is(err, os.ErrNotExist) { // an earlier call was interrupted here
			err = os.Rename(fresh, old)
		}
		if err != nil {
			return yr.Wrap("cert rotate finish", yr.DiskFailed, err)
		}
	}
	_ = os.Remove(next)
	out.Printf("the old authority is done with; it is kept as %s.old. %s.\n", filepath.Join(c.Dir, certs.AuthorityKey), copyAdvice)
	return nil
}

// believe writes the authorities of directories into the nodes' ca.crt.
func (c Certificates) believe(names []string, dirs ...string) error {
	var bundle [][]byte
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, certs.AuthorityCert))
		if err != nil {
			return yr.Wrap("read the authority", yr.ParamInvalid, err)
		}
		bundle = append(bundle, text)
	}
	for _, name := range names {
		if err := certs.WriteBundle(filepath.Join(c.Dir, name, certs.AuthorityCert), bundle...); err != nil {
			return err
		}
	}
	return nil
}

// switched reports whether every node's certificate is of the next authority.
func (c Certificates) switched() bool {
	next, err := certs.Inspect(filepath.Join(c.Dir, nextDir, certs.AuthorityCert))
	if err != nil {
		return false
	}
	names, err := c.nodes()
	if err != nil {
		return false
	}
	for _, name := range names {
		own, err := certs.Inspect(filepath.Join(c.Dir, name, nodeCert))
		if err != nil || own[0].Issuer != next[0].Name {
			return false
		}
	}
	return true
}
