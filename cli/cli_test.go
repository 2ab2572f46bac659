package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/config"
	"yr/pkg/gateway/scheduler"
	"yr/pkg/yr"
)

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0B", 1023: "1023B", 1024: "1KiB", 1536: "1.5KiB", 64 << 20: "64MiB", 3 << 30: "3GiB", 5 << 40: "5TiB",
	} {
		require.Equal(t, want, size(n))
	}
}

func TestAge(t *testing.T) {
	require.Empty(t, age(time.Time{}), "never")
	for ago, want := range map[time.Duration]string{
		1540 * time.Millisecond: "1.5s", 90 * time.Second: "1m30s", 3*time.Hour + 59*time.Second: "3h0m0s",
	} {
		require.Equal(t, want, age(time.Now().Add(-ago-time.Millisecond)))
	}
}

func TestStatusLeavesOutWhatItDoesNotKnow(t *testing.T) {
	require.Equal(t, "Cluster Status:\n  ReadyAgentsCount: 0\n", statusView{}.String())
	v := statusView{ReadyAgents: 2}
	v.Resource.ID, v.Resource.OwnerID = "u", "o"
	v.Resource.Capacity.Resources = map[string]scheduler.Amount{
		"ssd": {Scalar: scheduler.Scalar{Value: 1}}, "CPU": {Scalar: scheduler.Scalar{Value: 3999.6}},
	}
	require.Equal(t, "Cluster Status:\n  ReadyAgentsCount: 2\n  Resource: id=u owner=o\n    capacity: CPU=4000 ssd=1\n", v.String())
}

func TestTablesForPeopleAndScripts(t *testing.T) {
	var b bytes.Buffer
	o := &Output{Out: &b}
	o.Table([]any{"ID", "STATE"}, [][]any{{"a", "running"}, {"bbb", ""}})
	require.Equal(t, "ID   STATE\na    running\nbbb\n", b.String(), "no colour off a terminal, no trailing spaces")
	b.Reset()
	o.JSON = true
	o.Printf("not for scripts")
	require.NoError(t, o.Value([]int{1}, func() { t.Fatal("not for scripts") }))
	require.JSONEq(t, "[1]", b.String())
}

func TestANodeStaysItself(t *testing.T) {
	dir := t.TempDir()
	settings := func(id string, chosen bool, token string) config.Settings {
		return config.Settings{DataDir: dir, NodeID: yr.Node(id), NodeIDChosen: chosen, Token: token, Labels: map[string][]string{}}
	}
	first := settings("host-1", false, "")
	require.NoError(t, resolveIdentity(&first))
	require.Equal(t, yr.Node("host-1"), first.NodeID)
	require.Len(t, first.Token, 32)
	require.Equal(t, []string{"host-1"}, first.Labels["NODE_ID"])

	second := settings("host-2", false, "")
	require.NoError(t, resolveIdentity(&second))
	require.Equal(t, first.NodeID, second.NodeID, "another PID does not make another node")
	require.Equal(t, first.Token, second.Token)

	third := settings("chosen", true, "mine")
	require.NoError(t, resolveIdentity(&third))
	fourth := settings("host-4", false, "")
	require.NoError(t, resolveIdentity(&fourth))
	require.Equal(t, yr.Node("chosen"), fourth.NodeID, "what was chosen is remembered")
	require.Equal(t, "mine", fourth.Token)
	st, err := os.Stat(filepath.Join(dir, "token"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
}

func TestEndedTemporarySessionsAreBounded(t *testing.T) {
	prefix := t.TempDir()
	for i := range keepTemporary + 5 {
		require.NoError(t, os.MkdirAll(filepath.Join(prefix, fmt.Sprintf("20260101_0000%02d", i), "logs"), 0o750))
	}
	alive := filepath.Join(prefix, "20250101_000000", "run")
	require.NoError(t, os.MkdirAll(alive, 0o750))
	require.NoError(t, os.WriteFile(filepath.Join(alive, "plan.json"), nil, 0o600))
	pruneTemporary(prefix)
	left, err := filepath.Glob(filepath.Join(prefix, "2026*"))
	require.NoError(t, err)
	require.Len(t, left, keepTemporary)
	require.NoDirExists(t, filepath.Join(prefix, "20260101_000004"), "the oldest go first")
	require.DirExists(t, alive, "one that runs stays")
}
