// Package several runs the built yr binary on several hosts of a lab, and breaks
// what is between them and in them. What it promises is in docs/faults.md.
package several

import (
	"testing"

	"yr/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
