package python

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func entries(t *testing.T, dir string) (names []string) {
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func TestExtractIsWholeAndStable(t *testing.T) {
	dir := t.TempDir()
	first, err := Extract(dir)
	require.NoError(t, err)
	want, err := read(embedded)
	require.NoError(t, err)
	require.True(t, want.areAt(first))
	got, err := read(os.DirFS(first))
	require.NoError(t, err)
	require.Equal(t, want, got, "nothing else")
	require.FileExists(t, filepath.Join(first, "yr", "_worker", "template.py"))

	again, err := Extract(dir)
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Equal(t, []string{filepath.Base(first)}, entries(t, dir), "nothing is left beside it")
}

func TestExtractByManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			_, err := Extract(dir)
			assert.NoError(t, err)
		})
	}
	group.Wait()
	require.Len(t, entries(t, dir), 1)
}

func TestExtractReplacesWhatWasChanged(t *testing.T) {
	dir := t.TempDir()
	at, err := Extract(dir)
	require.NoError(t, err)
	changed := filepath.Join(at, "yr", "_worker", "template.py")
	require.NoError(t, os.WriteFile(changed, []byte("evil"), 0o600))
	again, err := Extract(dir)
	require.NoError(t, err)
	require.Equal(t, at, again)
	body, err := os.ReadFile(changed)
	require.NoError(t, err)
	require.NotEqual(t, "evil", string(body))
	require.Len(t, entries(t, dir), 1)
}

func TestExtractRefusesWhatOthersCanWrite(t *testing.T) {
	dir := t.TempDir()
	at, err := Extract(dir)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(at, 0o777)) //nolint:gosec // the point of the test
	_, err = Extract(dir)
	require.ErrorContains(t, err, "not this user's alone")
}
