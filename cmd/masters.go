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
them survive the loss of one, five the loss of two. A master is a node like any
other besides, so a new one joins first and is made a master then.`,
		Example: `  yr masters list
  yr masters add n2           from 1 to 3: add two nodes, one after the other
  yr masters replace n1 n4    n1 is gone for good`,
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
			func(c *cobra.Command, at *client.Client, _ []string) error {
				return cli.Masters(c.Context(), at, a.out)
			})),
		a.changeMasters("add NODE", "Make a node a master", oneArg("the name of a node that has joined"),
			func(c *cobra.Command, at *client.Client, args []string) error {
				return cli.AddMaster(c.Context(), at, yr.Node(args[0]), a.out)
			}),
		a.changeMasters("remove NODE", "Make a master an ordinary node, or forget one that is gone", oneArg("the name of a master"),
			func(c *cobra.Command, at *client.Client, args []string) error {
				return cli.RemoveMaster(c.Context(), at, yr.Node(args[0]), a.out)
			}),
		a.changeMasters("replace GONE NODE", "Give the place of a master that is gone to another node", twoArgs("the name of the master that is gone and that of a node"),
			func(c *cobra.Command, at *client.Client, args []string) error {
				return cli.ReplaceMaster(c.Context(), at, yr.Node(args[0]), yr.Node(args[1]), a.out)
			}),
	)
	return c
}

func (a *app) changeMasters(use, short string, args cobra.PositionalArgs, run func(*cobra.Command, *client.Client, []string) error) *cobra.Command {
	var t target
	return a.targetFlags(&cobra.Command{
		Use: use, Short: short, Args: args, DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return a.ask(&t, func(at *client.Client) error { return run(c, at, args) })
		},
	}, &t)
}
