package master_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"yr/master"
	"yr/pkg/yr"
)

func TestCompatible(t *testing.T) {
	for _, row := range []struct {
		leader, node string
		works        bool
	}{
		{"0.5.0", "0.5.0", true},
		{"0.5.0", "0.5.9", true},
		{"0.5.0", "0.4.0", true},
		{"0.5.0", "v0.6.1-rc1", true},
		{"0.5", "0.5.1", true},
		{"0.5.0", "0.3.0", false},
		{"0.5.0", "0.7.0", false},
		{"0.5.0", "1.5.0", false},
		{"0.5.0", "", false},
		{"0.5.0", "new", false},
		{"0.5.0", "0.x", false},
		{"dev", "0.5.0", false},
	} {
		err := master.Compatible(row.leader, row.node)
		if row.works {
			require.NoError(t, err, "%s and %s", row.leader, row.node)
		} else {
			require.Equal(t, yr.VersionMismatch, yr.CodeOf(err), "%s and %s", row.leader, row.node)
		}
	}
}
