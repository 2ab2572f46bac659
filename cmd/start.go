package cmd

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"yr/cli"
	"yr/pkg/config"
	"yr/pkg/yr"
)

// startFlags are the options of `yr start` that are not configuration keys.
type startFlags struct {
	master, temporary, insecure     bool
	set                             []string
	masterAddress, masterInfo, join string
	prefix, policy, block, output   string
	owner                           int
}

func (a *app) start() *cobra.Command {
	f := &startFlags{}
	c := &cobra.Command{
		Use:   "start --master [-s KEY=VALUE]... [options]",
		Short: "Start a cluster on this machine",
		Long: `Start a cluster on this machine and return when it is ready.

-s sets one configuration key, as TOML; texts need their quotes, and the shell
must leave them alone. All -s together are one TOML document. They win over the
environment, that over the file, and that over the built-in values, which
` + "`yr config template`" + ` shows.`,
		Example: `  yr start --master
  yr start --master -s 'values.cpu_num=4000' -s 'values.memory_num=8192'
  yr start --master -s 'function_agent.args.custom_resources="{\"ssd\":1}"'
  yr start --master --block true              stay until the cluster ends`,
		Args: noArgs,
	}
	flags := c.Flags()
	flags.BoolVar(&f.master, "master", false, "be a master: the first node of a cluster")
	flags.StringArrayVarP(&f.set, "set", "s", nil, "set a configuration `KEY=VALUE` (TOML); may be repeated")
	flags.StringVar(&f.masterAddress, "master-address", "", "join the cluster of this `URL` (not in this version)")
	flags.StringVar(&f.join, "join", "", "join the cluster of this `URL` (not in this version)")
	flags.StringVar(&f.masterInfo, "master-info", "", "join by a master info `line` (not in this version)")
	flags.StringVar(&f.policy, "port-policy", "RANDOM", "`policy` for a default port that is busy: RANDOM takes a free one, FIX fails")
	flags.StringVar(&f.block, "block", "false", "`true`: stay until the cluster ends; Ctrl-C leaves it running, SIGTERM ends it")
	flags.StringVar(&f.prefix, "log-dir-prefix", "", "`directory` of sessions, logs and data (default "+defaultPrefix+")")
	flags.BoolVar(&f.temporary, "temporary", false, "a cluster on loopback that ends, with its data, when its owner does")
	flags.BoolVar(&f.insecure, "insecure", false, "ask for no token over TCP: whoever reaches the ports may do everything")
	flags.IntVar(&f.owner, "owner-pid", 0, "the `process` that owns a temporary cluster (default: the one that called yr)")
	flags.StringVarP(&f.output, "output", "o", "table", "`format`: table or json; anything else is a file for the master info line")
	_ = flags.MarkHidden("owner-pid")
	_ = c.RegisterFlagCompletionFunc("port-policy", cobra.FixedCompletions([]string{"RANDOM", "FIX"}, cobra.ShellCompDirectiveNoFileComp))
	legacyFlags(flags)
	c.RunE = func(c *cobra.Command, _ []string) error {
		opt, err := a.startOptions(f, legacyTree(flags, f.master || f.temporary))
		if err != nil {
			return err
		}
		signals := cli.BlockSignals()
		started, err := cli.Start(c.Context(), opt, a.out)
		if err != nil {
			return err
		}
		if err := cli.Announce(started, a.out); err != nil {
			return err
		}
		if strings.EqualFold(f.block, "true") || f.block == "1" {
			return exitStatus(cli.Block(started, signals, a.out))
		}
		return nil
	}
	return c
}

func (a *app) startOptions(f *startFlags, given map[string]any) (cli.StartOptions, error) {
	var opt cli.StartOptions
	if !f.master && f.temporary {
		f.master = true
	}
	switch {
	case f.master && f.masterAddress+f.join+f.masterInfo != "":
		return opt, yr.E("start", yr.ParamInvalid, "--master starts a cluster and --master-address joins one; give only one of them")
	case !f.master:
		return opt, yr.E("start", yr.ParamInvalid,
			"joining a cluster needs the several-nodes release of yr; this version runs clusters of one node: `yr start --master`")
	}
	if !isTruth(f.block) {
		return opt, usagef("--block %s is neither true nor false", f.block)
	}
	switch strings.ToUpper(f.policy) {
	case "RANDOM":
	case "FIX":
		opt.FixPorts = true
	default:
		return opt, usagef("--port-policy %s is neither FIX nor RANDOM", f.policy)
	}
	switch f.output {
	case "table":
	case "json":
		a.out.JSON = true
	default:
		opt.InfoFile = f.output
	}
	if f.temporary && f.owner == 0 {
		f.owner = os.Getppid()
	}
	if err := ownerAllowed(f.owner); err != nil {
		return opt, err
	}
	if f.insecure {
		config.Put(given, []string{"values", "insecure"}, true)
	}
	cfg, err := a.loadConfig(f.set, given)
	opt.Master, opt.Temporary, opt.OwnerPID, opt.Prefix = f.master, f.temporary, f.owner, f.prefix
	opt.Config, opt.Version, opt.Begun = cfg, a.version, a.begun
	return opt, err
}

// ownerAllowed checks that the owner of a temporary cluster is a process of this user.
func ownerAllowed(pid int) error {
	if pid == 0 {
		return nil
	}
	st, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return yr.E("start", yr.ParamInvalid, "--owner-pid %d: there is no such process", pid)
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != os.Getuid() && pid != os.Getppid() {
		return yr.E("start", yr.Unauthorized, "--owner-pid %d belongs to user %d, not to you", pid, sys.Uid)
	}
	return nil
}

// loadConfig merges the configuration of this machine and this command line.
func (a *app) loadConfig(set []string, given map[string]any) (*config.Config, error) {
	if a.config != "" {
		if _, err := os.Stat(a.config); err != nil {
			return nil, usagef("-c %s: %v", a.config, err)
		}
	}
	return config.Load(config.Sources{Host: config.Detect(), File: a.config, Set: set, Flags: given})
}
