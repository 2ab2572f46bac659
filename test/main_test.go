// Package test runs the built yr binary and real Python programs. Each test
// starts its own cluster and fails if that leaves a process, a socket or shared
// memory behind.
package test

import (
	"testing"

	"yr/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
