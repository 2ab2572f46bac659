package cmd

import (
	"time"

	"github.com/spf13/cobra"

	"yr/cli"
	"yr/pkg/gateway/api"
	"yr/pkg/gateway/client"
	"yr/pkg/yr"
)

// nodes is `yr list nodes` under the name by which one looks for it.
func (a *app) nodes() *cobra.Command {
	c := a.listOne("nodes")
	c.Aliases = nil
	c.Short = "List the machines of the cluster"
	return c
}

func (a *app) cordon() *cobra.Command {
	return a.cordonOr("cordon", true, "Give a node no new work; what runs there goes on")
}

func (a *app) uncordon() *cobra.Command {
	return a.cordonOr("uncordon", false, "Give a node work again")
}

func (a *app) cordonOr(name string, cordoned bool, short string) *cobra.Command {
	var t target
	return a.targetFlags(&cobra.Command{
		Use:   name + " NODE",
		Short: short,
		Args:  oneArg("the name of a node"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.ask(&t, func(at *client.Client) error {
				return cli.Cordon(c.Context(), at, yr.Node(args[0]), cordoned, a.out)
			})
		},
	}, &t)
}

func (a *app) drain() *cobra.Command {
	var t target
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "drain [--timeout TIME] NODE",
		Short: "Cordon a node and wait until nothing runs there",
		Long: `Cordon a node and wait until nothing runs there, saying what still does.
Ctrl-C, or the end of the time, ends the waiting; the node stays cordoned.`,
		Example: `  yr drain n2                 before its machine is switched off
  yr drain --timeout 1h n2
  yr uncordon n2              when it is back`,
		Args: oneArg("the name of a node"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.ask(&t, func(at *client.Client) error {
				return cli.Drain(c.Context(), at, yr.Node(args[0]), timeout, a.out)
			})
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", api.DefaultDrain, "how long it may take")
	return a.targetFlags(c, &t)
}

func (a *app) evict() *cobra.Command {
	var t target
	var grace time.Duration
	c := &cobra.Command{
		Use:   "evict [--grace TIME] NODE",
		Short: "Cordon a node and end what runs there",
		Long: `Cordon a node, give what runs there some time to end, and then end it. Instances
that can be recovered come back on other nodes; the others are gone.`,
		Args: oneArg("the name of a node"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.ask(&t, func(at *client.Client) error {
				return cli.Evict(c.Context(), at, yr.Node(args[0]), grace, a.out)
			})
		},
	}
	c.Flags().DurationVar(&grace, "grace", api.DefaultGrace, "the time before anything is ended")
	return a.targetFlags(c, &t)
}

func (a *app) leave() *cobra.Command {
	var where cli.Where
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "leave [--timeout TIME]",
		Short: "Take this node out of its cluster in order, and stop it",
		Long: `Drain this node, tell its cluster goodbye, and stop it. ` + "`yr stop`" + ` does the
same without waiting for what runs here.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := where.FindAlive()
			if err != nil {
				return err
			}
			return cli.Leave(c.Context(), f, timeout, a.out)
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", api.DefaultDrain, "how long to wait for what runs here; 0s does not wait")
	return a.whereFlags(c, &where)
}
