package cmd

import (
	"github.com/spf13/cobra"

	"yr/cli"
)

func (a *app) why() *cobra.Command {
	var where cli.Where
	c := &cobra.Command{
		Use:   "why ID",
		Short: "Say what a call, instance, worker, object or node waits for, or why it ended",
		Args:  oneArg("the ID of a call, instance, worker, object or node"),
		RunE: func(c *cobra.Command, args []string) error {
			f, err := where.FindAlive()
			if err != nil {
				return err
			}
			return cli.Why(c.Context(), f, args[0], a.out)
		},
	}
	return a.formatFlag(a.whereFlags(c, &where))
}
