package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"yr/pkg/yr"
)

// TLS names the files of one end of mutual TLS.
type TLS struct {
	Enabled                   bool
	CAFile, CertFile, KeyFile string // absolute
}

// TLSFiles are the files of values.fs.tls, whether or not TLS is enabled for this
// node: a command may need them in order to ask one that has it.
func (c *Config) TLSFiles() (TLS, error) {
	r := reader{c: c}
	files := r.tls(true, "values", "fs", "tls")
	return files, r.err
}

// tls reads the files of one end of mutual TLS, and that they can be read.
func (r *reader) tls(enabled bool, table ...string) TLS {
	t := TLS{Enabled: enabled}
	key := func(name string) []string { return append(slices.Clone(table), name) }
	for _, f := range []struct {
		name string
		file *string
	}{{"ca_file", &t.CAFile}, {"cert_file", &t.CertFile}, {"key_file", &t.KeyFile}} {
		path := r.text(key(f.name)...)
		if !filepath.IsAbs(path) {
			path = filepath.Join(r.text(key("base_path")...), path)
		}
		path, err := filepath.Abs(path)
		if err != nil {
			r.fail(err)
		}
		*f.file = path
		if !enabled {
			continue
		}
		open, err := os.Open(path)
		if err != nil {
			r.fail(yr.E("configuration", yr.ParamInvalid,
				"TLS is on, but %s: %v; `yr cert init` and `yr cert issue` make these files, base_path says where they are", strings.Join(key(f.name), "."), err))
			continue
		}
		_ = open.Close()
	}
	return t
}
