package cmd

import (
	"github.com/spf13/cobra"

	"yr/cli"
)

func (a *app) status() *cobra.Command {
	var where cli.Where
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the cluster: endpoints, nodes and resources",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := where.FindAlive()
			if err != nil {
				return err
			}
			return cli.Status(c.Context(), f, a.out)
		},
	}
	return a.formatFlag(a.whereFlags(c, &where))
}
