package cmd

import (
	"github.com/spf13/cobra"

	"yr/daemon"
)

// daemon is the child of supervise: the node itself.
func (a *app) daemon() *cobra.Command {
	return &cobra.Command{
		Use:    "daemon PLAN",
		Hidden: true,
		Short:  "Be the daemon that a plan describes (started by supervise)",
		Args:   oneArg("the path of a plan"),
		RunE: func(_ *cobra.Command, args []string) error {
			return exitStatus(daemon.Main(args[0]), nil)
		},
	}
}
