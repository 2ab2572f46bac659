package cmd

import (
	"github.com/spf13/cobra"

	"yr/cli"
	"yr/pkg/gateway/client"
)

func (a *app) logs() *cobra.Command {
	var opt client.LogOptions
	var t target
	c := &cobra.Command{
		Use:   "logs [-f] ID",
		Short: "Show what an instance, call or worker printed, on any node",
		Example: `  yr logs -f ID               follow an instance until it ends or Ctrl-C
  yr logs --stream err ID     only its standard error`,
		Args: oneArg("the ID of an instance, call or worker"),
		RunE: func(c *cobra.Command, args []string) error {
			switch opt.Stream {
			case "", "out", "err":
			default:
				return usagef("--stream %s is neither out nor err", opt.Stream)
			}
			where, err := a.resolve(&t)
			if err != nil {
				return err
			}
			return cli.Logs(c.Context(), where, args[0], opt, a.out)
		},
	}
	c.Flags().BoolVarP(&opt.Follow, "follow", "f", false, "go on as it grows")
	c.Flags().IntVarP(&opt.Tail, "tail", "n", -1, "only the last `N` lines (-1: all)")
	c.Flags().StringVar(&opt.Stream, "stream", "", "`out` or err (default: both)")
	c.Flags().StringVar(&t.Prefix, "log-dir-prefix", defaultPrefix, "`directory` of the session, as given to yr start")
	c.Flags().StringVar(&t.File, "file", "", "a session.json `file`, instead of the newest session")
	return t.remoteFlags(c)
}
