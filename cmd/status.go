package cmd

import (
	"github.com/spf13/cobra"

	"yr/cli"
	"yr/pkg/gateway/client"
)

func (a *app) status() *cobra.Command {
	var t target
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the cluster: endpoints, nodes and resources",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.ask(&t, func(at *client.Client) error { return cli.Status(c.Context(), at, a.out) })
		},
	}
	return a.formatFlag(a.targetFlags(c, &t))
}
