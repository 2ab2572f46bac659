package cmd

import (
	"time"

	"github.com/spf13/cobra"

	"yr/cli"
	"yr/pkg/certs"
)

func (a *app) cert() *cobra.Command {
	c := &cobra.Command{
		Use:   "cert",
		Short: "Make, show and rotate the certificates of a cluster with TLS",
		Long: `Make, show and rotate certificates, in a directory on a machine that you trust
most: the authority lies in it, and a directory for each node, which is copied to
that node and named there by values.fs.tls.base_path. Nodes take new files without
a restart.`,
		Example: `  yr cert init
  yr cert issue --host 10.0.0.1 --host n1.example n1
  yr start --master -s 'values.fs.tls.enable=true' -s 'values.fs.tls.base_path="certs/n1"'
  yr cert renew                 all of them; copy them to their nodes
  yr cert rotate begin          another authority: begin, switch, finish`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usagef("yr cert cannot %q%s; there are init, issue, renew, show, rotate", args[0], didYouMean(c.SuggestionsFor(args[0])))
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.SuggestionsMinimumDistance = 2
	dir := cli.Certificates{Now: time.Now}
	c.PersistentFlags().StringVar(&dir.Dir, "dir", "certs", "`directory` of the certificates")
	c.AddCommand(
		&cobra.Command{Use: "init", Short: "Make the authority", Args: noArgs,
			RunE: func(*cobra.Command, []string) error { return dir.Init(a.out) }},
		a.certIssue(&dir), a.certRenew(&dir),
		a.formatFlag(&cobra.Command{Use: "show [FILE]...", Short: "Show certificates: of whom, by whom, until when",
			RunE: func(_ *cobra.Command, args []string) error { return dir.Show(args, a.out) }}),
		a.certRotate(&dir),
	)
	return c
}

func (a *app) certIssue(dir *cli.Certificates) *cobra.Command {
	var hosts []string
	var life time.Duration
	c := &cobra.Command{
		Use: "issue --host ADDRESS NODE", Short: "Make a node a certificate", Args: oneArg("a name for the node"),
		RunE: func(_ *cobra.Command, args []string) error { return dir.Issue(args[0], hosts, life, a.out) },
	}
	c.Flags().StringSliceVar(&hosts, "host", nil, "an `address` or name at which the node is reached; may be repeated")
	lifeFlag(c, &life)
	return c
}

func (a *app) certRenew(dir *cli.Certificates) *cobra.Command {
	var life time.Duration
	c := &cobra.Command{
		Use: "renew [NODE]...", Short: "Make nodes new certificates like those they have (default: all nodes)",
		RunE: func(_ *cobra.Command, args []string) error { return dir.Renew(args, life, a.out) },
	}
	lifeFlag(c, &life)
	return c
}

func lifeFlag(c *cobra.Command, life *time.Duration) {
	c.Flags().DurationVar(life, "life", certs.DefaultLife, "how long it is good")
}

func (a *app) certRotate(dir *cli.Certificates) *cobra.Command {
	c := &cobra.Command{
		Use: "rotate", Short: "Replace the authority, in three steps",
		Long: `Replace the authority without a moment in which two nodes do not believe each
other. After each step copy the nodes' directories to the nodes.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usagef("yr cert rotate has no step %q; there are begin, switch, finish", args[0])
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	for _, step := range []struct {
		name, short string
		run         func(*cli.Output) error
	}{
		{"begin", "Let the nodes believe a new authority too", func(o *cli.Output) error { return dir.RotateBegin(o) }},
		{"switch", "Issue the nodes' certificates from the new authority", func(o *cli.Output) error { return dir.RotateSwitch(o) }},
		{"finish", "Let the nodes believe the new authority only", func(o *cli.Output) error { return dir.RotateFinish(o) }},
	} {
		c.AddCommand(&cobra.Command{Use: step.name, Short: step.short, Args: noArgs,
			RunE: func(*cobra.Command, []string) error { return step.run(a.out) }})
	}
	return c
}
