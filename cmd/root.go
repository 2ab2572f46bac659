// Package cmd is the command line of yr: one file per command, flags in, one
// call out, no logic.
package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"yr/cli"
	"yr/pkg/session"
	"yr/pkg/yr"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

const defaultPrefix = session.DefaultPrefix

// otherNames are the programs that this binary will also be, by the name under
// which it is called.
var otherNames = map[string]string{
	"yrcli":     "functions over HTTP, sandboxes",
	"yrcluster": "tokens of an identity service",
	"dscli":     "the data system's client",
	"adx":       "agent deployment",
}

// app is what every command gets.
type app struct {
	version string
	begun   time.Time
	out     *cli.Output
	format  string // -o
	config  string // -c
}

// Main runs the program that name stands for and returns its exit status.
func Main(name string, args []string, version string) int {
	if what, ok := otherNames[name]; ok {
		_, _ = fmt.Fprintf(os.Stderr, "%s (%s) is not part of yr %s yet; this binary answers to `yr` only\n", name, what, version)
		return exitUsage
	}
	a := &app{version: version, begun: time.Now(), out: &cli.Output{Out: os.Stdout, Err: os.Stderr}}
	root := a.root()
	root.SetArgs(a.normalize(root, args))
	ctx, stop := context.Background(), func() {}
	if !ownSignals(args) {
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	}
	defer stop()
	return a.report(root.ExecuteContext(ctx))
}

// ownSignals tells the commands that run for as long as the node does, and treat
// signals themselves.
func ownSignals(args []string) bool {
	return len(args) > 0 && (args[0] == "supervise" || args[0] == "daemon")
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "yr",
		Short: "One computer for Python programs, from a laptop to a thousand machines",
		Long: `yr runs Python functions, stateful instances and shared objects as processes of
one machine or many, with the interface of openYuanrong (import yr).`,
		Example: `  yr start --master          start a cluster on this machine
  yr start --join HOST:PORT  join it from another one
  python program.py          run a program on it (import yr; yr.init())
  yr list instances          see what runs
  yr why ID                  ask what something waits for, or why it ended
  yr stop                    end the cluster`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       a.version,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usagef("unknown command %q%s; `yr --help` lists the commands", args[0], didYouMean(c.SuggestionsFor(args[0])))
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			switch a.format {
			case "", "table":
			case "json":
				a.out.JSON = true
			default:
				return usagef("-o %s is not a format; there are table and json", a.format)
			}
			return nil
		},
	}
	root.SuggestionsMinimumDistance = 2
	root.SetVersionTemplate("yr version: {{.Version}}\n")
	root.SetGlobalNormalizationFunc(underscores)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%v; `%s --help` lists the options", err, c.CommandPath())
	})
	root.PersistentFlags().StringVarP(&a.config, "config", "c", "", "configuration `file` (default /etc/yuanrong/config.toml, if there is one)")
	root.PersistentFlags().BoolVarP(&a.out.Verbose, "verbose", "v", false, "say more")
	root.CompletionOptions.HiddenDefaultCmd = false
	root.AddCommand(
		a.start(), a.stop(), a.status(), a.health(), a.versionCommand(), a.configCommand(),
		a.list(), a.why(), a.logs(), a.bench(), a.supervise(), a.daemon(),
		a.nodes(), a.cordon(), a.uncordon(), a.drain(), a.evict(), a.leave(), a.masters(), a.backup(), a.restore(), a.cert(),
	)
	for _, c := range root.Commands() {
		c.DisableFlagsInUseLine = true
	}
	return root
}

// underscores lets --port_policy be --port-policy: openYuanrong has both.
func underscores(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
}

// formatFlag adds -o to a command that can answer in JSON.
func (a *app) formatFlag(c *cobra.Command) *cobra.Command {
	c.Flags().StringVarP(&a.format, "output", "o", "table", "`format`: table or json")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// usageError makes the exit status 2.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitError ends with a status after everything has been said.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// exitStatus passes on the status of something that was run.
func exitStatus(status int, err error) error {
	if err != nil || status == exitOK {
		return err
	}
	return exitError(status)
}

func (a *app) report(err error) int {
	var status exitError
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &status):
		return int(status)
	}
	code := yr.CodeOf(err)
	if code == yr.Internal || errors.As(err, &usage) {
		_, _ = fmt.Fprintf(os.Stderr, "error: %v\n", err)
	} else {
		_, _ = fmt.Fprintf(os.Stderr, "error: %v (%s, %d)\n", err, code, int(code))
	}
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

func didYouMean(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return ", did you mean " + strings.Join(names, " or ") + "?"
}

// noArgs is cobra.NoArgs as a usage error.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no argument, but got %q; `%s --help` shows how", c.CommandPath(), args[0], c.CommandPath())
	}
	return nil
}

// oneArg wants exactly one argument, which what names.
func oneArg(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("%s wants one argument, %s, but got %d", c.CommandPath(), what, len(args))
		}
		return nil
	}
}
