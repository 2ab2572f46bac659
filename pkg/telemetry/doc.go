// Package telemetry is how the daemon is observed: its logs, its metrics, and
// the trace identifiers that it passes on.
package telemetry
