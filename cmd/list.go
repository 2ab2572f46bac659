package cmd

import (
	"strings"

	"github.com/spf13/cobra"

	"yr/cli"
)

func (a *app) list() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List nodes, instances, calls, objects or workers",
		Example: `  yr list nodes
  yr list instances -o json`,
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
	var where cli.Where
	c := &cobra.Command{
		Use:     name,
		Aliases: []string{strings.TrimSuffix(name, "s")},
		Short:   "List " + name,
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := where.FindAlive()
			if err != nil {
				return err
			}
			return cli.List(c.Context(), f, name, a.out)
		},
	}
	return a.formatFlag(a.whereFlags(c, &where))
}
