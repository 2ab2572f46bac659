package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"yr/pkg/certs"
	"yr/pkg/yr"
)

// Certificates is a directory of certificates, kept on one machine that is
// trusted most: the authority, and a directory for each node with what that node
// needs. The names are those that values.fs.tls expects, so that base_path is all
// a node must be told.
//
//	ca.crt ca.key               the authority; ca.key makes nodes, and never travels
//	n1/ca.crt module.crt .key   node n1's
//	next/ca.crt ca.key          the authority that is about to follow
type Certificates struct {
	Dir string
	Now func() time.Time
}

const (
	nodeCert = "module.crt"
	nodeKey  = "module.key"
	nextDir  = "next"
)

// Init makes the authority.
func (c Certificates) Init(out *Output) error {
	if _, err := certs.NewAuthority(c.Dir, c.Now()); err != nil {
		return err
	}
	out.Printf("authority made in %s; keep %s to yourself.\nNext: yr cert issue --dir %s --host ADDRESS NODE, for each node\n",
		c.Dir, filepath.Join(c.Dir, certs.AuthorityKey), c.Dir)
	return nil
}

// Issue makes a node's directory.
func (c Certificates) Issue(name string, hosts []string, life time.Duration, out *Output) error {
	if err := c.nodeName(name); err != nil {
		return err
	}
	if len(hosts) == 0 {
		return yr.E("cert issue", yr.ParamInvalid, "say where the node is reached: --host 10.0.0.1, also several times, addresses and names")
	}
	dir := filepath.Join(c.Dir, name)
	if _, err := os.Lstat(filepath.Join(dir, nodeCert)); err == nil {
		return yr.E("cert issue", yr.KeyExists, "%s has a certificate; `yr cert renew %s` makes it a new one, or remove the directory to change its hosts", dir, name)
	}
	authority, err := c.signer()
	if err != nil {
		return err
	}
	believed, err := os.ReadFile(filepath.Join(c.Dir, certs.AuthorityCert))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	bundle := [][]byte{believed}
	if next, err := os.ReadFile(filepath.Join(c.Dir, nextDir, certs.AuthorityCert)); err == nil {
		bundle = append(bundle, next)
	}
	if err := certs.WriteBundle(filepath.Join(dir, certs.AuthorityCert), bundle...); err != nil {
		return err
	}
	if err := c.sign(authority, name, hosts, life); err != nil {
		return err
	}
	out.Printf("certificate of %s is in %s. Copy that directory to the node, and start it with\n"+
		"  -s 'values.fs.tls.enable=true' -s 'values.fs.tls.base_path=\"DIR\"'\n", name, dir)
	return nil
}

// Renew makes new certificates, with new keys, for nodes that have one; no names:
// for all. A running node takes what is written over its old files.
func (c Certificates) Renew(names []string, life time.Duration, out *Output) error {
	authority, err := c.signer()
	if err != nil {
		return err
	}
	if len(names) == 0 {
		if names, err = c.nodes(); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := c.renew(authority, name, life); err != nil {
			return err
		}
		out.Printf("certificate of %s renewed in %s\n", name, filepath.Join(c.Dir, name))
	}
	out.Printf("Copy each over the node's files; it uses them from its next connection on, without a restart.\n")
	return nil
}

// Show lists the certificates of files and directories; none: of the whole Dir.
func (c Certificates) Show(paths []string, out *Output) error {
	if len(paths) == 0 {
		paths = []string{c.Dir}
	}
	var files []string
	for _, path := range paths {
		found, err := certificateFiles(path)
		if err != nil {
			return err
		}
		files = append(files, found...)
	}
	type shown struct {
		File string `json:"file"`
		certs.Details
	}
	var all []shown
	for _, file := range files {
		details, err := certs.Inspect(file)
		if err != nil {
			return err
		}
		for _, d := range details {
			all = append(all, shown{file, d})
		}
	}
	return out.Value(all, func() {
		rows := make([][]any, len(all))
		for i, d := range all {
			kind := "node"
			if d.Authority {
				kind = "authority"
			}
			rows[i] = []any{d.File, d.Name, kind, strings.Join(d.Hosts, ","), c.validity(d.Details), d.Issuer, d.Fingerprint[:16]}
		}
		out.Table([]any{"FILE", "NAME", "KIND", "HOSTS", "GOOD UNTIL", "ISSUER", "SHA-256"}, rows)
	})
}

func (c Certificates) validity(d certs.Details) string {
	text := d.Ends.UTC().Format(time.DateOnly)
	switch now := c.Now(); {
	case now.After(d.Ends):
		return text + " (over)"
	case now.Before(d.Begins):
		return text + " (not yet)"
	}
	return text
}

func certificateFiles(path string) ([]string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, yr.E("cert show", yr.ParamInvalid, "%v", err)
	}
	if !st.IsDir() {
		return []string{path}, nil
	}
	var files []string
	err = filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".crt") {
			files = append(files, path)
		}
		return err
	})
	if err == nil && len(files) == 0 {
		err = yr.E("cert show", yr.ParamInvalid, "%s holds no certificate (*.crt); `yr cert init` makes the first", path)
	}
	return files, err
}

// signer is the authority that issues now: during a rotation, once every node
// believes the next one, that one.
func (c Certificates) signer() (*certs.Authority, error) {
	if c.switched() {
		return certs.OpenAuthority(filepath.Join(c.Dir, nextDir))
	}
	if _, err := os.Stat(filepath.Join(c.Dir, certs.AuthorityKey)); errors.Is(err, fs.ErrNotExist) {
		return nil, yr.E("open the authority", yr.ParamInvalid, "there is none in %s; `yr cert init --dir %s` makes it, --dir names another place", c.Dir, c.Dir)
	}
	return certs.OpenAuthority(c.Dir)
}

func (c Certificates) sign(a *certs.Authority, name string, hosts []string, life time.Duration) error {
	pair, err := a.Issue(certs.Request{Name: name, Hosts: hosts, Life: life, Now: c.Now()})
	if err != nil {
		return err
	}
	dir := filepath.Join(c.Dir, name)
	return pair.Write(filepath.Join(dir, nodeCert), filepath.Join(dir, nodeKey))
}

func (c Certificates) renew(a *certs.Authority, name string, life time.Duration) error {
	if err := c.nodeName(name); err != nil {
		return err
	}
	had, err := certs.Inspect(filepath.Join(c.Dir, name, nodeCert))
	if err != nil {
		return err
	}
	return c.sign(a, had[0].Name, had[0].Hosts, life)
}

// nodes lists the nodes that have a directory.
func (c Certificates) nodes() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(c.Dir, "*", nodeCert))
	if err == nil && len(files) == 0 {
		err = yr.E("certificates", yr.ParamInvalid, "no node has a certificate in %s; `yr cert issue` makes one", c.Dir)
	}
	names := make([]string, len(files))
	for i, file := range files {
		names[i] = filepath.Base(filepath.Dir(file))
	}
	return names, err
}

// nodeName refuses what would be no directory of its own.
func (c Certificates) nodeName(name string) error {
	if name == "" || name == nextDir || !filepath.IsLocal(name) || filepath.Base(name) != name || slices.Contains([]string{".", ".."}, name) {
		return yr.E("certificates", yr.ParamInvalid, "%.80q cannot be a node's name here: it names a directory in %s", name, c.Dir)
	}
	return nil
}
