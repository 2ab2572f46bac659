package cmd

import (
	"strings"

	"github.com/spf13/cobra"

	"yr/cli"
	"yr/pkg/gateway/client"
	"yr/pkg/yr"
)

func (a *app) list() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List nodes, instances, calls, objects or workers",
		Example: `  yr list nodes
  yr list instances -o json
  yr list calls --node n2`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usagef("yr cannot list %q%s; there are %s", args[0], didYouMean(c.SuggestionsFor(args[0])), strings.Join(cli.Listings(), ", "))
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.SuggestionsMinimumDistance = 2
	for _, name := range cli.Listings() {
		c.AddCommand(a.listOne(name))
	}
	return c
}

func (a *app) listOne(name string) *cobra.Command {
	var t target
	opt := cli.ListOptions{What: name}
	var job, node string
	c := &cobra.Command{
		Use:     name,
		Aliases: []string{strings.TrimSuffix(name, "s")},
		Short:   "List " + name,
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			opt.Filter.Job, opt.Filter.Node = yr.Job(job), yr.Node(node)
			return a.ask(&t, func(at *client.Client) error { return cli.List(c.Context(), at, opt, a.out) })
		},
	}
	if name != "nodes" {
		c.Flags().StringVar(&job, "job", "", "only of this `job`")
		c.Flags().StringVar(&node, "node", "", "only on this `node`")
		c.Flags().StringVar(&opt.Filter.State, "state", "", "only in this `state`")
		c.Flags().IntVar(&opt.Filter.Limit, "limit", 0, "at most `N` of them (default 1000)")
		c.Flags().IntVar(&opt.Filter.Offset, "offset", 0, "skip the first `N`")
	}
	return a.formatFlag(a.targetFlags(c, &t))
}
