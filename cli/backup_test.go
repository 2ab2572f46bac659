package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/gateway"
	"yr/pkg/gateway/answer"
	"yr/pkg/gateway/api"
	"yr/pkg/gateway/client"
	"yr/pkg/session"
	"yr/pkg/yr"
)

// leader is a cluster of one node that can be backed up.
type leader struct {
	gateway.Cluster // nothing else is asked of it
	backup          func(io.Writer) error
}

func (*leader) Nodes(context.Context) ([]yr.NodeView, error) {
	return []yr.NodeView{{ID: "n1", Leader: true, Master: true}}, nil
}
func (l *leader) Backup(_ context.Context, w io.Writer) error { return l.backup(w) }

func TestBackupsAreWholeOrAbsent(t *testing.T) {
	l := &leader{}
	socket := filepath.Join(t.TempDir(), "api.sock")
	ln, err := net.Listen("unix", socket)
	require.NoError(t, err)
	g := gateway.New(gateway.Options{Source: &alone{yr.NodeView{ID: "n1"}}, Unix: ln, Cluster: l})
	require.NoError(t, g.Open(t.Context()))
	t.Cleanup(func() { require.NoError(t, g.Close(context.Background())) })
	c := client.Unix(socket)
	defer c.Close()

	dir := t.TempDir()
	path := filepath.Join(dir, "backup")
	out := &Output{Out: &bytes.Buffer{}, Err: io.Discard}
	whole := bytes.Repeat([]byte("state"), 200_000)
	l.backup = func(w io.Writer) error {
		_, _ = w.Write(whole[:len(whole)/2])
		return errors.New("the disk is gone")
	}
	require.Error(t, Backup(t.Context(), c, path, out))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "half a backup is none")

	l.backup = func(w io.Writer) error { _, err := w.Write(whole); return err }
	require.NoError(t, Backup(t.Context(), c, path, out))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(whole, text))
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())

	stdout := &bytes.Buffer{}
	require.NoError(t, Backup(t.Context(), c, "-", &Output{Out: stdout}))
	require.True(t, bytes.Equal(whole, stdout.Bytes()))
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(Backup(t.Context(), c, "/absent/backup", out)))
}

func TestRestore(t *testing.T) {
	dir := t.TempDir()
	file, empty := filepath.Join(dir, "backup"), filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(file, []byte("state"), 0o600))
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	data := filepath.Join(dir, "data")
	out := &Output{Out: &bytes.Buffer{}, Err: io.Discard}
	restore := func(file string) error {
		return Restore(RestoreOptions{File: file, Prefix: dir, Config: configured(t)}, out)
	}
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(restore(empty)))
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(restore(dir)))
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(restore("/absent")))

	require.NoError(t, os.MkdirAll(data, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(data, "token"), []byte("secret"), 0o600))
	require.NoError(t, restore(file), "a token may be there already")
	text, err := os.ReadFile(session.RestoreFile(data))
	require.NoError(t, err)
	require.Equal(t, "state", string(text))
	require.ErrorContains(t, restore(file), "in use", "another backup would be lost")

	other := filepath.Join(dir, "other")
	require.NoError(t, os.MkdirAll(filepath.Join(other, "etcd"), 0o700))
	err = Restore(RestoreOptions{File: file, Config: configured(t, `values.data_dir="`+other+`"`)}, out)
	require.Equal(t, yr.KeyExists, yr.CodeOf(err))
	require.ErrorContains(t, err, "etcd")

	lock, err := lockData(other)
	require.NoError(t, err)
	defer func() { _ = lock.Close() }()
	err = Restore(RestoreOptions{File: file, Config: configured(t, `values.data_dir="`+other+`"`)}, out)
	require.Equal(t, yr.AlreadyRunning, yr.CodeOf(err))
}

func TestProgressIsToldWhenItChanges(t *testing.T) {
	var b bytes.Buffer
	tell := tellProgress(&Output{Out: &b})
	for _, p := range []api.Progress{{Node: "n", Instances: 1, Calls: 2}, {Node: "n", Instances: 1, Calls: 2}, {Node: "n", Calls: 1}, {Node: "n"}, {Node: "n", Reason: "silent"}} {
		tell(p)
	}
	require.Equal(t, "node n still runs 1 instance and 2 calls\nnode n still runs 0 instances and 1 call\nnode n still runs 0 instances and 0 calls, and perhaps more: silent\n", b.String())
}

func TestHowManyLossesTheMastersSurvive(t *testing.T) {
	for n, want := range map[int]string{
		1: "the cluster has 1 master and survives the loss of 0",
		2: "the cluster has 2 masters and survives the loss of 0; an odd number is better: `yr masters add` says how to make it 3",
		3: "the cluster has 3 masters and survives the loss of 1",
		5: "the cluster has 5 masters and survives the loss of 2",
	} {
		require.Equal(t, want, survives(answer.Page[api.MasterView]{Total: n}))
	}
}

func TestLeavingIsNotForMasters(t *testing.T) {
	err := Leave(t.Context(), &session.File{Mode: "master", Node: "n1"}, time.Second, &Output{Out: io.Discard})
	require.ErrorContains(t, err, "yr masters remove n1")
}
