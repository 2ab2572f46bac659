package cmd

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"yr/cli"
	"yr/pkg/gateway/client"
)

func (a *app) backup() *cobra.Command {
	var t target
	return a.targetFlags(&cobra.Command{
		Use:   "backup FILE",
		Short: "Write the durable state of the cluster to a file",
		Long: `Write the durable state of the cluster to a file: names, records, configuration;
not what is in memory. The cluster goes on meanwhile. "-" is standard output.`,
		Example: `  yr backup /backup/yr-$(date +%F)`,
		Args:    oneArg("the file to write"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.ask(&t, func(at *client.Client) error { return cli.Backup(c.Context(), at, args[0], a.out) })
		},
	}, &t)
}

func (a *app) restore() *cobra.Command {
	opt := cli.RestoreOptions{}
	var set []string
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put a backup into an empty data directory, for the next start",
		Long: `Put a backup into an empty data directory. The next ` + "`yr start --master`" + ` on it
begins a cluster of one master with the state of the backup; other nodes join it
then, and ` + "`yr masters add`" + ` makes some of them masters.`,
		Example: `  yr restore /backup/yr-2026-11-21
  yr start --master --token-file token`,
		Args: oneArg("the file that yr backup wrote"),
		RunE: func(_ *cobra.Command, args []string) error {
			var err error
			opt.File = args[0]
			if opt.Config, err = a.loadConfig(set, nil); err != nil {
				return err
			}
			if opt.Prefix, err = filepath.Abs(opt.Prefix); err != nil {
				return err
			}
			return cli.Restore(opt, a.out)
		},
	}
	c.Flags().StringVar(&opt.Prefix, "log-dir-prefix", defaultPrefix, "`directory` of sessions, logs and data, as it will be given to yr start")
	c.Flags().StringArrayVarP(&set, "set", "s", nil, "set a configuration `KEY=VALUE` (TOML), as it will be given to yr start")
	return c
}
