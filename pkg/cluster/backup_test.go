package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/cluster"
	"yr/pkg/yr"
)

func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 3)
	m.start(0, 1, 2)
	ctx := t.Context()
	old := openCluster(t, m.live[0], "m")
	_, claimed, err := old.Names().Claim(ctx, "t", "", "n", []byte("record"))
	require.NoError(t, err)
	require.True(t, claimed)
	_, err = old.Nodes().Register(ctx, node("a", "ia"))
	require.NoError(t, err)
	id, err := old.Facts().EnsureID(ctx)
	require.NoError(t, err)
	var backup bytes.Buffer
	require.NoError(t, m.live[2].Backup(ctx, &backup), "any member can be asked")
	_, _, err = old.Names().Claim(ctx, "t", "", "later", nil)
	require.NoError(t, err)

	m.kill(0)
	m.kill(1)
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	require.ErrorIs(t, m.live[2].Backup(short, io.Discard), cluster.ErrNoQuorum)
	var salvaged bytes.Buffer
	require.NoError(t, m.live[2].Salvage(ctx, &salvaged), "what one has can be saved without the others")
	require.NoError(t, cluster.Restore(ctx, &salvaged, filepath.Join(t.TempDir(), "etcd")))
	m.kill(2)

	// Everything is lost; a new machine gets the backup, and is grown again.
	for i := range 3 {
		require.NoError(t, os.RemoveAll(m.dirs[i]))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(m.dirs[0], "restoring"), 0o700), "as a Restore leaves it that was killed")
	require.NoError(t, cluster.Restore(ctx, bytes.NewReader(backup.Bytes()), m.dirs[0]))
	c := openCluster(t, m.open(0, m.alone(0)), "m")
	record, ok, err := c.Names().Find(ctx, "t", "", "n")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "record", string(record))
	_, ok, err = c.Names().Find(ctx, "t", "", "later")
	require.NoError(t, err)
	require.False(t, ok, "it came after the backup")
	require.Equal(t, old.Leader().Epoch()+1, c.Leader().Epoch(), "epochs go on")
	again, err := c.Facts().ID(ctx)
	require.NoError(t, err)
	require.Equal(t, id, again)
	views, err := m.live[0].Members(ctx)
	require.NoError(t, err)
	require.Len(t, views, 1, "the lost masters are not waited for")

	m.stop(0)
	m.open(0, m.alone(0))
	m.open(1, m.joining(1, 0))
	m.open(2, m.joining(2, 0))
	m.waitVoters(0, 3)
	m.kill(0)
	put(t, m.live[1], "k", "v")
	requireValue(t, m.live[2], "/yr/t/names//n", "\x01record")
}

func TestDamagedBackups(t *testing.T) {
	m := openMember(t, t.TempDir())
	put(t, m, "k", "v")
	var good bytes.Buffer
	require.NoError(t, m.Backup(t.Context(), &good))
	flipped := bytes.Clone(good.Bytes())
	flipped[len(flipped)/2] ^= 1
	ended, end := context.WithCancel(t.Context())
	end()
	for _, row := range []struct {
		name string
		ctx  context.Context
		from io.Reader
		code yr.Code
	}{
		{"empty", t.Context(), bytes.NewReader(nil), yr.ParamInvalid},
		{"short", t.Context(), bytes.NewReader(good.Bytes()[:good.Len()-100]), yr.ParamInvalid},
		{"flipped bit", t.Context(), bytes.NewReader(flipped), yr.ParamInvalid},
		{"something else", t.Context(), bytes.NewReader(make([]byte, 512*8+32)), yr.ParamInvalid},
		{"unreadable", t.Context(), io.MultiReader(bytes.NewReader(good.Bytes()[:4096]), failing{}), yr.DiskFailed},
		{"given up", ended, bytes.NewReader(good.Bytes()), yr.DiskFailed},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "etcd")
			err := cluster.Restore(row.ctx, row.from, dir)
			require.Equal(t, row.code, yr.CodeOf(err), "%v", err)
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, entries, "nothing half restored is left")
			require.NoError(t, cluster.Restore(t.Context(), bytes.NewReader(good.Bytes()), dir), "and it can be done again")
		})
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "precious"), nil, 0o600))
	err := cluster.Restore(t.Context(), &good, dir)
	require.Equal(t, yr.AlreadyRunning, yr.CodeOf(err), "nothing is overwritten")
	require.FileExists(t, filepath.Join(dir, "precious"))
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the tape broke") }
