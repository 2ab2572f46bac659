package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/sys/unix"
)

// Output is where a command writes: tables and sentences for people, or one JSON
// value for scripts. Warnings go to Err in either case.
type Output struct {
	Out, Err io.Writer
	JSON     bool
	Verbose  bool
}

// Value prints v as JSON if scripts asked, else calls human.
func (o *Output) Value(v any, human func()) error {
	if !o.JSON {
		human()
		return nil
	}
	enc := json.NewEncoder(o.Out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// Printf writes for people; with -o json it writes nothing.
func (o *Output) Printf(format string, args ...any) {
	if !o.JSON {
		_, _ = fmt.Fprintf(o.Out, format, args...)
	}
}

// Warnf writes a warning.
func (o *Output) Warnf(format string, args ...any) {
	_, _ = fmt.Fprintf(o.Err, "warning: "+format+"\n", args...)
}

// Debugf writes what only -v shows.
func (o *Output) Debugf(format string, args ...any) {
	if o.Verbose {
		_, _ = fmt.Fprintf(o.Err, format+"\n", args...)
	}
}

// Table prints rows under a header; states are coloured on a terminal.
func (o *Output) Table(header []any, rows [][]any) {
	if len(rows) == 0 {
		_, _ = fmt.Fprintln(o.Out, "nothing to show")
		return
	}
	t := table.NewWriter()
	t.SetOutputMirror(o.Out)
	style := table.StyleLight
	style.Format.Header = text.FormatDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft = ""
	style.Box.PaddingRight = "  "
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	t.AppendHeader(header)
	for _, r := range rows {
		for i := range r {
			r[i] = o.paint(r[i])
		}
		t.AppendRow(r)
	}
	t.Render()
}

// stateColors says how much attention a state wants.
var stateColors = map[string]text.Color{
	"RUNNING": text.FgGreen, "running": text.FgGreen, "ready": text.FgGreen, "READY": text.FgGreen,
	"STOPPED": text.FgRed, "fatal": text.FgRed, "failed": text.FgRed, "lost": text.FgRed, "schedule_failed": text.FgRed,
	"queued": text.FgYellow, "waiting": text.FgYellow, "pending": text.FgYellow, "scheduling": text.FgYellow,
	"creating": text.FgYellow, "cordoned": text.FgYellow, "exiting": text.FgYellow,
	"draining": text.FgYellow, "drained": text.FgYellow, "joining": text.FgYellow,
}

func (o *Output) paint(cell any) any {
	s, ok := cell.(string)
	if !ok || !o.colored() {
		return cell
	}
	if color, ok := stateColors[s]; ok {
		return color.Sprint(s)
	}
	return cell
}

// colored reports whether Out is a terminal whose user has not set NO_COLOR.
func (o *Output) colored() bool {
	f, ok := o.Out.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
