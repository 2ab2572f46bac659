// Package cli is what the yr commands share: finding a session, starting and
// stopping it, asking its daemon, and showing the answers.
package cli
