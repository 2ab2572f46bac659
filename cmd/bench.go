package cmd

import (
	"github.com/spf13/cobra"

	"yr/cli"
)

func (a *app) bench() *cobra.Command {
	var opt cli.BenchOptions
	c := &cobra.Command{
		Use:   "bench [-- OPTIONS]",
		Short: "Measure calls, objects and starts against the machine's floor",
		Long: `Run the Python benchmarks of the SDK (python -m yr._bench) with this binary.
Everything after the command goes to the benchmark; yr bench -- --help lists it.`,
		Example: `  yr bench
  yr bench --python python3.12 -- --quick call-sync`,
		RunE: func(c *cobra.Command, args []string) error {
			opt.Args = args
			return exitStatus(cli.Bench(c.Context(), opt, a.out))
		},
	}
	c.Flags().StringVar(&opt.Python, "python", "", "`interpreter` to measure with (default: $YR_PYTHON, else python3)")
	return c
}
