package cmd

import (
	"github.com/spf13/cobra"

	"yr/cli"
)

func (a *app) stop() *cobra.Command {
	var where cli.Where
	var force bool
	c := &cobra.Command{
		Use:   "stop [--force]",
		Short: "End the node on this machine",
		Long: `End the node on this machine: its workers, its sockets and its shared memory. One
that has joined a cluster tells it goodbye. Logs and data stay. Without --force it
waits up to 40 s for an orderly end.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := where.Find()
			if err != nil {
				return err
			}
			return cli.Stop(c.Context(), f, force, a.out)
		},
	}
	c.Flags().BoolVar(&force, "force", false, "kill instead of asking")
	return a.whereFlags(c, &where)
}
