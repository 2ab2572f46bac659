package cluster

import (
	"errors"
	"runtime"
	"sync/atomic"

	"github.com/rs/zerolog"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// chatter are complaints of etcd at its start that mean nothing here: it serves
// no HTTP, and a single voter is elected before its first entry has reached the
// database, which etcd asks for its version every few seconds until it has.
var chatter = map[string]bool{
	"Running http and grpc server on single port. This is not recommended for production.": true,
	"Failed to detect schema version":  true,
	"failed to update storage version": true,
}

// logger is etcd's logger: warnings and worse go to ours. Where zap would exit
// the process or panic, the member fails instead (see fatalHook).
func (e *engine) logger() *zap.Logger {
	hook := fatalHook{e.member}
	return zap.New(zerologCore{log: e.member.options.Log, closing: &e.closing}, zap.WithFatalHook(hook), zap.WithPanicHook(hook))
}

// fatalHook ends only the goroutine that hit the error. etcd answers a full disk
// or a broken file with Fatal; in this process that would take the agent and
// every session with it before anybody could say why.
type fatalHook struct{ member *Member }

// OnWrite implements zapcore.CheckWriteHook; it does not return.
func (h fatalHook) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	cause := errors.New(entry.Message)
	for _, f := range fields {
		if err, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			cause = joined{entry.Message, err}
		}
	}
	h.member.fail(cause)
	runtime.Goexit()
}

type joined struct {
	message string
	cause   error
}

func (j joined) Error() string { return j.message + ": " + j.cause.Error() }
func (j joined) Unwrap() error { return j.cause }

// zerologCore writes zap entries of warning and above to zerolog.
type zerologCore struct {
	log     zerolog.Logger
	closing *atomic.Bool
	fields  []zapcore.Field
}

// Enabled implements zapcore.Core.
func (zerologCore) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

// With implements zapcore.Core.
func (c zerologCore) With(fields []zapcore.Field) zapcore.Core {
	c.fields = append(c.fields[:len(c.fields):len(c.fields)], fields...)
	return c
}

// Check implements zapcore.Core.
func (c zerologCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(entry.Level) || chatter[entry.Message] || c.closing.Load() {
		return checked
	}
	return checked.AddCore(entry, c)
}

// Write implements zapcore.Core.
func (c zerologCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	event := c.log.Warn()
	if entry.Level > zapcore.WarnLevel {
		event = c.log.Error()
	}
	values := zapcore.NewMapObjectEncoder()
	for _, f := range c.fields {
		f.AddTo(values)
	}
	for _, f := range fields {
		f.AddTo(values)
	}
	event.Fields(values.Fields).Msg("etcd: " + entry.Message)
	return nil
}

// Sync implements zapcore.Core.
func (zerologCore) Sync() error { return nil }
