package cmd

import (
	"github.com/spf13/cobra"

	"yr/cli"
)

func (a *app) health() *cobra.Command {
	var where cli.Where
	c := &cobra.Command{
		Use:   "health",
		Short: "Say whether every component of this node runs",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := where.Find()
			if err != nil {
				return err
			}
			healthy, err := cli.Health(c.Context(), f, a.out)
			if err == nil && !healthy {
				return exitError(exitFailed)
			}
			return err
		},
	}
	return a.formatFlag(a.whereFlags(c, &where))
}
