package cli

import (
	"bytes"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/certs"
	"yr/pkg/yr"
)

// believes reports whether two nodes let each other in, with the files as they are.
func believes(t *testing.T, server, client string) bool {
	t.Helper()
	live := func(dir string) *certs.Live {
		l, err := certs.Open(certs.Files{
			CA: filepath.Join(dir, certs.AuthorityCert), Cert: filepath.Join(dir, nodeCert), Key: filepath.Join(dir, nodeKey),
		}, certs.LiveOptions{})
		require.NoError(t, err)
		return l
	}
	serve, err := live(server).Server()
	require.NoError(t, err)
	ask, err := live(client).Client()
	require.NoError(t, err)
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	done := make(chan error, 1)
	go func() {
		c := tls.Server(a, serve)
		err := c.HandshakeContext(t.Context())
		if err == nil {
			_, err = c.Write([]byte("x"))
		}
		_ = a.Close()
		done <- err
	}()
	_, err = tls.Client(b, ask).Read(make([]byte, 1))
	_ = b.Close()
	return <-done == nil && err == nil
}

func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	require.NoError(t, os.CopyFS(to, os.DirFS(from)))
	return to
}

func TestCertificates(t *testing.T) {
	now := time.Now()
	dir := filepath.Join(t.TempDir(), "certs")
	c := Certificates{Dir: dir, Now: func() time.Time { return now }}
	var text bytes.Buffer
	out := &Output{Out: &text, Err: &text}

	require.ErrorContains(t, c.Issue("n1", []string{"10.0.0.1"}, 0, out), "yr cert init")
	require.NoError(t, c.Init(out))
	require.Equal(t, yr.KeyExists, yr.CodeOf(c.Init(out)))
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(c.Issue("n1", nil, 0, out)))
	for _, name := range []string{"", "..", "a/b", "next", "/x"} {
		require.Equal(t, yr.ParamInvalid, yr.CodeOf(c.Issue(name, []string{"h"}, 0, out)), name)
	}
	n1, n2 := filepath.Join(dir, "n1"), filepath.Join(dir, "n2")
	require.NoError(t, c.Issue("n1", []string{"10.0.0.1", "n1.example"}, time.Hour, out))
	require.NoError(t, c.Issue("n2", []string{"10.0.0.2"}, 0, out))
	require.Equal(t, yr.KeyExists, yr.CodeOf(c.Issue("n1", []string{"10.0.0.9"}, 0, out)))
	require.Contains(t, text.String(), "values.fs.tls.base_path")
	require.True(t, believes(t, n1, n2))
	st, err := os.Stat(filepath.Join(n1, nodeKey))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())

	text.Reset()
	require.NoError(t, c.Show(nil, out))
	require.Regexp(t, `n1/module\.crt +n1 +node +n1\.example,10\.0\.0\.1 `, text.String())
	text.Reset()
	now = now.Add(2 * time.Hour)
	require.NoError(t, c.Show([]string{filepath.Join(n1, nodeCert)}, out))
	require.Contains(t, text.String(), "(over)")

	before, err := certs.Inspect(filepath.Join(n1, nodeCert))
	require.NoError(t, err)
	require.NoError(t, c.Renew([]string{"n1"}, 0, out))
	after, err := certs.Inspect(filepath.Join(n1, nodeCert))
	require.NoError(t, err)
	require.NotEqual(t, before[0].Fingerprint, after[0].Fingerprint)
	require.Equal(t, before[0].Hosts, after[0].Hosts)
	require.True(t, after[0].Ends.After(now.Add(24*time.Hour)))
	require.NoError(t, c.Renew(nil, 0, out), "all")
	require.Error(t, c.Renew([]string{"n9"}, 0, out))
}

// At no moment of a rotation do two nodes refuse each other, whichever step's
// files each of them has.
func TestRotation(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	c := Certificates{Dir: dir, Now: time.Now}
	out := &Output{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}}
	require.NoError(t, c.Init(out))
	require.NoError(t, c.Issue("n1", []string{"10.0.0.1"}, 0, out))
	require.NoError(t, c.Issue("n2", []string{"10.0.0.2"}, 0, out))
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(c.RotateSwitch(out)), "begin comes first")
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(c.RotateFinish(out)))

	n1, n2 := filepath.Join(dir, "n1"), filepath.Join(dir, "n2")
	former := copyDir(t, n2)
	oldest := former
	for _, step := range []struct {
		name string
		do   func(*Output) error
	}{{"begin", c.RotateBegin}, {"begin again", c.RotateBegin}, {"switch", c.RotateSwitch}, {"switch again", c.RotateSwitch}, {"finish", c.RotateFinish}} {
		if step.name == "switch" {
			require.Equal(t, yr.ParamInvalid, yr.CodeOf(c.RotateFinish(out)), "not before the switch")
			require.NoError(t, c.Issue("n3", []string{"10.0.0.3"}, 0, out), "nodes may come meanwhile")
		}
		require.NoError(t, step.do(out), step.name)
		require.True(t, believes(t, n1, former), step.name)
		require.True(t, believes(t, former, n1), step.name)
		require.True(t, believes(t, n1, n2), step.name)
		former = copyDir(t, n2)
	}
	require.False(t, believes(t, n1, oldest), "the old authority is not believed any more")
	require.True(t, believes(t, n1, filepath.Join(dir, "n3")))
	require.NoDirExists(t, filepath.Join(dir, nextDir))
	require.FileExists(t, filepath.Join(dir, certs.AuthorityKey+".old"))
	require.NoError(t, c.Issue("n4", []string{"10.0.0.4"}, 0, out))
	require.True(t, believes(t, n1, filepath.Join(dir, "n4")))
	require.NoError(t, c.RotateBegin(out), "and again")
}
