package cmd

import (
	"github.com/spf13/cobra"

	"yr/cli"
	"yr/pkg/gateway/client"
	"yr/pkg/yr"
)

func (a *app) masters() *cobra.Command {
	c := &cobra.Command{
		Use:   "masters",
		Short: "List and change the masters of the cluster",
		Long: `The masters keep the cluster's state, a majority of them at any time. Three of
them survive the loss of one, five the loss of two. A machine becomes a master by
starting as one: yr start --master --join HOST:PORT.`,
		Example: `  yr masters list
  yr masters add              from 1 to 3: what to run on two more machines
  yr masters replace n1       n1 is gone for good`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usagef("yr masters cannot %q%s; there are list, add, remove, replace", args[0], didYouMean(c.SuggestionsFor(args[0])))
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.SuggestionsMinimumDistance = 2
	c.AddCommand(
		a.formatFlag(a.changeMasters("list", "List the masters", noArgs,
			func(c *cobra.Command, at *client.Client, _ string, _ []string) error {
				return cli.Masters(c.Context(), at, a.out)
			})),
		a.formatFlag(a.changeMasters("add", "Say how a machine becomes a master", noArgs,
			func(c *cobra.Command, at *client.Client, token string, _ []string) error {
				return cli.AddMaster(c.Context(), at, token, a.out)
			})),
		a.changeMasters("remove NODE", "Take a master's vote away, whether it lives or not", oneArg("the name of a master"),
			func(c *cobra.Command, at *client.Client, _ string, args []string) error {
				return cli.RemoveMaster(c.Context(), at, yr.Node(args[0]), a.out)
			}),
		a.changeMasters("replace GONE", "Take the vote of a master that is gone, and say how another takes its place", oneArg("the name of the master that is gone"),
			func(c *cobra.Command, at *client.Client, token string, args []string) error {
				return cli.ReplaceMaster(c.Context(), at, yr.Node(args[0]), token, a.out)
			}),
	)
	return c
}

func (a *app) changeMasters(use, short string, args cobra.PositionalArgs,
	run func(c *cobra.Command, at *client.Client, token string, args []string) error,
) *cobra.Command {
	var t target
	return a.targetFlags(&cobra.Command{
		Use: use, Short: short, Args: args, DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return a.ask(&t, func(at *client.Client) error { return run(c, at, t.ClusterToken(), args) })
		},
	}, &t)
}
