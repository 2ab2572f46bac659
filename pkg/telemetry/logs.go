package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"gopkg.in/natefinch/lumberjack.v2"

	"yr/pkg/yr"
)

// The defaults of values.fs.log, which are upstream's.
const (
	DefaultMaxSizeMiB = 40
	DefaultMaxFiles   = 10
	DefaultMaxAgeDays = 30
)

// LogOptions say where the logs of a daemon go.
type LogOptions struct {
	Dir        string  // created if absent
	Node       yr.Node // begins every file's name
	Level      string  // DEBUG, INFO, WARN or ERROR in any case; "" is INFO
	MaxSizeMiB int     // of a file, then it is rolled; 0: DefaultMaxSizeMiB
	MaxFiles   int     // rolled files kept of each component; 0: DefaultMaxFiles
	MaxAgeDays int     // 0: DefaultMaxAgeDays
	Compress   bool    // gzip rolled files
	Stderr     bool    // write to standard error too (values.fs.log.also_log_to_stderr)
}

// Logs owns the log files of one daemon: one for each component, named as users
// grep them, {node}-function_proxy.log and so on. One process writes them all.
type Logs struct {
	options LogOptions

	mu    sync.Mutex // protects files
	files map[string]*lumberjack.Logger
}

// NewLogs makes closed Logs.
func NewLogs(o LogOptions) *Logs {
	if o.MaxSizeMiB == 0 {
		o.MaxSizeMiB = DefaultMaxSizeMiB
	}
	if o.MaxFiles == 0 {
		o.MaxFiles = DefaultMaxFiles
	}
	if o.MaxAgeDays == 0 {
		o.MaxAgeDays = DefaultMaxAgeDays
	}
	return &Logs{options: o, files: make(map[string]*lumberjack.Logger)}
}

// Open checks that the directory can be written and sets the level.
func (l *Logs) Open(context.Context) error {
	if err := SetLevel(l.options.Level); err != nil {
		return err
	}
	if err := os.MkdirAll(l.options.Dir, 0o750); err != nil {
		return yr.Wrap("open logs", yr.DiskFailed, err)
	}
	probe, err := os.OpenFile(l.path("function_proxy"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return yr.Wrap("open logs", yr.DiskFailed, err)
	}
	return probe.Close()
}

// Close closes the files. Loggers made before stay usable and open them again.
func (l *Logs) Close(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, f := range l.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// For returns the logger of a component: "function_master", "function_proxy",
// "function_agent" and so on. Repeated messages are thinned, see Thin.
func (l *Logs) For(component string) zerolog.Logger {
	var out io.Writer = l.file(component)
	if l.options.Stderr {
		out = zerolog.MultiLevelWriter(out, zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: time.TimeOnly, NoColor: true})
	}
	return zerolog.New(out).Hook(NewThin(time.Now), zerolog.HookFunc(stamp))
}

// timeLayout has milliseconds: a node starts in fewer than two hundred of them.
const timeLayout = "2006-01-02T15:04:05.000Z"

func stamp(event *zerolog.Event, _ zerolog.Level, _ string) {
	event.Str(zerolog.TimestampFieldName, time.Now().UTC().Format(timeLayout))
}

func (l *Logs) file(component string) *lumberjack.Logger {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.files[component]
	if !ok {
		f = &lumberjack.Logger{
			Filename: l.path(component), MaxSize: l.options.MaxSizeMiB,
			MaxBackups: l.options.MaxFiles, MaxAge: l.options.MaxAgeDays, Compress: l.options.Compress,
		}
		l.files[component] = f
	}
	return f
}

func (l *Logs) path(component string) string {
	return filepath.Join(l.options.Dir, fmt.Sprintf("%s-%s.log", l.options.Node, component))
}

// SetLevel changes the level of every logger in the process, at any time.
func SetLevel(level string) error {
	parsed, err := parseLevel(level)
	if err != nil {
		return err
	}
	zerolog.SetGlobalLevel(parsed)
	return nil
}

// Level is the level in force.
func Level() string { return strings.ToUpper(zerolog.GlobalLevel().String()) }

func parseLevel(level string) (zerolog.Level, error) {
	switch strings.ToUpper(level) {
	case "DEBUG":
		return zerolog.DebugLevel, nil
	case "", "INFO":
		return zerolog.InfoLevel, nil
	case "WARN", "WARNING":
		return zerolog.WarnLevel, nil
	case "ERROR":
		return zerolog.ErrorLevel, nil
	}
	return zerolog.NoLevel, yr.E("log level", yr.ParamInvalid, "%q is not a level; use DEBUG, INFO, WARN or ERROR", level)
}
