package cmd

import (
	"github.com/spf13/cobra"

	"yr/cli"
	"yr/pkg/gateway/client"
)

func (a *app) why() *cobra.Command {
	var t target
	c := &cobra.Command{
		Use:   "why ID",
		Short: "Say what a call, instance, worker, object or node waits for, or why it ended",
		Args:  oneArg("the ID of a call, instance, worker, object or node"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.ask(&t, func(at *client.Client) error { return cli.Why(c.Context(), at, args[0], a.out) })
		},
	}
	return a.formatFlag(a.targetFlags(c, &t))
}
