package cli

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"yr/pkg/config"
	"yr/pkg/session"
	"yr/pkg/yr"
)

// resolveIdentity makes a node the same node, with the same token, whenever it
// starts on the same data directory. What the configuration says wins, and is
// what the next start finds. Only the first master of a cluster makes a token.
func resolveIdentity(s *config.Settings) error {
	id := ""
	if s.NodeIDChosen {
		id = string(s.NodeID)
	}
	id, err := remember(filepath.Join(s.DataDir, "node_id"), 0o644, id, func() string { return string(s.NodeID) })
	if err != nil {
		return err
	}
	s.NodeID = yr.Node(id)
	s.Label()
	switch {
	case len(s.Join) > 0 && s.Token != "":
		return nil // kept by keepToken, once the cluster has accepted it
	case len(s.Join) > 0 || len(s.Masters) > 0:
		s.Token, err = remember(tokenPath(s), 0o600, s.Token, func() string { return "" })
	default:
		s.Token, err = remember(tokenPath(s), 0o600, s.Token, newToken)
	}
	if err != nil {
		return err
	}
	return needToken(s)
}

// keepToken lets the next start find the token with which this one has joined.
func keepToken(s *config.Settings) error {
	_, err := remember(tokenPath(s), 0o600, s.Token, nil)
	return err
}

func tokenPath(s *config.Settings) string { return filepath.Join(s.DataDir, "token") }

// remember returns chosen, else what the file holds, else a new value; the file
// then holds it.
func remember(path string, mode os.FileMode, chosen string, fresh func() string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	known := strings.TrimSpace(string(text))
	value := chosen
	if value == "" {
		value = known
	}
	if value == "" {
		value = fresh()
	}
	if value == "" {
		return "", nil
	}
	if value == known {
		return value, os.Chmod(path, mode)
	}
	return value, session.WriteAtomic(path, []byte(value), mode)
}

// readSmall reads a file that a person wrote.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, 64<<10))
}

// newToken returns 128 random bits.
func newToken() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails on Linux
	return hex.EncodeToString(raw[:])
}
