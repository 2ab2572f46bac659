package cmd

import (
	"github.com/spf13/cobra"

	"yr/cli"
)

func (a *app) logs() *cobra.Command {
	var opt cli.LogOptions
	var where cli.Where
	c := &cobra.Command{
		Use:   "logs [-f] [ID]",
		Short: "Show what an instance or worker printed; without an ID, the daemon's log",
		Example: `  yr logs -f 0123456789ab00000001     follow an instance
  yr logs                             the daemon's own log`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s wants one ID, but got %d", c.CommandPath(), len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			f, err := where.Find()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				opt.ID = args[0]
			}
			return cli.Logs(c.Context(), f, opt, a.out)
		},
	}
	c.Flags().BoolVarP(&opt.Follow, "follow", "f", false, "go on as it grows, until Ctrl-C")
	c.Flags().IntVarP(&opt.Tail, "tail", "n", 0, "only the last `N` lines (0: all)")
	c.Flags().StringVar(&where.Prefix, "log-dir-prefix", defaultPrefix, "`directory` of the session, as given to yr start")
	c.Flags().StringVar(&where.File, "file", "", "a session.json `file`, instead of the newest session")
	return c
}
