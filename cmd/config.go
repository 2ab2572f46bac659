package cmd

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"yr/pkg/config"
)

func (a *app) configCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Show configuration",
		Args:  noArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.configDump(), a.configTemplate())
	return c
}

func (a *app) configDump() *cobra.Command {
	var set []string
	c := &cobra.Command{
		Use:     "dump [-s KEY=VALUE]...",
		Short:   "Print the merged configuration as TOML",
		Example: `  yr config dump -s 'values.cpu_num=4000' > config.toml; yr -c config.toml start --master`,
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := a.loadConfig(set, nil)
			if err != nil {
				return err
			}
			if a.out.JSON {
				return json.NewEncoder(a.out.Out).Encode(cfg.Tree())
			}
			text, err := cfg.TOML()
			if err != nil {
				return err
			}
			_, err = a.out.Out.Write(text)
			return err
		},
	}
	c.Flags().StringArrayVarP(&set, "set", "s", nil, "set a configuration `KEY=VALUE` (TOML); may be repeated")
	return a.formatFlag(c)
}

func (a *app) configTemplate() *cobra.Command {
	return &cobra.Command{
		Use:   "template",
		Short: "Print the built-in configuration, with comments",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprint(a.out.Out, config.Defaults)
			return err
		},
	}
}
