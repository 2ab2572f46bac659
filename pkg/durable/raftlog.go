package durable

import (
	"bytes"

	"github.com/hashicorp/go-hclog"
	"github.com/rs/zerolog"
)

// raftLog passes what Raft says on, for debugging: what it warns of, lost voters and
// elections, is ordinary, and what matters is logged by Group.
func raftLog(to zerolog.Logger) hclog.Logger {
	level := hclog.Off
	if to.GetLevel() <= zerolog.DebugLevel {
		level = hclog.Info
	}
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: level, Output: logWriter{to}, DisableTime: true})
}

type logWriter struct{ to zerolog.Logger }

func (w logWriter) Write(line []byte) (int, error) {
	w.to.Debug().Msg(string(bytes.TrimSpace(line)))
	return len(line), nil
}
