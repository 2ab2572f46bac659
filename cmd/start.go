package cmd

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"yr/cli"
	"yr/pkg/config"
	"yr/pkg/session"
	"yr/pkg/yr"
)

// startFlags are the options of `yr start` that are not configuration keys.
type startFlags struct {
	master, temporary, insecure     bool
	set                             []string
	masterAddress, masterInfo, join string
	masters                         string
	token                           tokenFlags
	prefix, policy, block, output   string
	owner                           int
}

func (a *app) start() *cobra.Command {
	f := &startFlags{}
	c := &cobra.Command{
		Use:   "start --master | --join HOST:PORT [-s KEY=VALUE]... [options]",
		Short: "Start a cluster on this machine, or join another's",
		Long: `Start a cluster on this machine, or join the one of another machine, and return
when the node is ready. ` + "`yr start --master`" + ` shows the command that joins it.

-s sets one configuration key, as TOML; texts need their quotes, and the shell
must leave them alone. All -s together are one TOML document. They win over the
environment, that over the file, and that over the built-in values, which
` + "`yr config template`" + ` shows.`,
		Example: `  yr start --master
  yr start --master -s 'values.cpu_num=4000' -s 'values.memory_num=8192'
  yr start --master -s 'function_agent.args.custom_resources="{\"ssd\":1}"'
  yr start --master --block true              stay until the cluster ends
  yr start --join 10.0.0.1:22770 --token-file token
  yr start --master --masters 10.0.0.1,10.0.0.2,10.0.0.3 --token-file token    on each of the three`,
		Args: noArgs,
	}
	flags := c.Flags()
	flags.BoolVar(&f.master, "master", false, "be a master: the first node of a cluster, or one of --masters")
	flags.StringVar(&f.masters, "masters", "", "the `ADDRESSES` of all masters, IP[:PORT] with commas, the same on each of them")
	flags.StringVar(&f.join, "join", "", "join the cluster of the master at `HOST:PORT`, as one of its masters with --master; several with commas")
	f.token.add(flags)
	flags.StringVar(&f.masterAddress, "master-address", "", "join the cluster of this `URL`, http(s)://HOST:PORT")
	flags.StringVar(&f.masterInfo, "master-info", "", "join the cluster of this master info `line`")
	flags.StringArrayVarP(&f.set, "set", "s", nil, "set a configuration `KEY=VALUE` (TOML); may be repeated")
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
	if err := f.consistent(); err != nil {
		return opt, err
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
	if err := f.place(given); err != nil {
		return opt, err
	}
	cfg, err := a.loadConfig(f.set, given)
	opt.MasterURL = f.masterAddress
	opt.Master, opt.Temporary, opt.OwnerPID, opt.Prefix = f.master, f.temporary, f.owner, f.prefix
	opt.Config, opt.Version, opt.Begun = cfg, a.version, a.begun
	return opt, err
}

// consistent refuses to begin a cluster and join one, or to join in two ways.
func (f *startFlags) consistent() error {
	ways := 0
	for _, way := range []string{f.join, f.masterAddress, f.masterInfo} {
		if way != "" {
			ways++
		}
	}
	switch {
	case f.master && (f.masterAddress != "" || f.masterInfo != ""), f.temporary && ways > 0:
		return yr.E("start", yr.ParamInvalid, "--master starts a cluster, --master-address and --master-info join one; give only one of them. A further master of a cluster that runs is `yr start --master --join HOST:PORT`")
	case ways > 1:
		return yr.E("start", yr.ParamInvalid, "--join, --master-address and --master-info say the same thing; give only one of them")
	case f.masters != "" && !f.master:
		return yr.E("start", yr.ParamInvalid, "--masters names the masters for one of them; add --master here, or --join %s to join them", f.masters)
	case f.masters != "" && f.temporary:
		return yr.E("start", yr.ParamInvalid, "a temporary cluster has one node, so --temporary and --masters exclude each other")
	}
	return nil
}

// place puts what the options say of the node's place in a cluster where the
// configuration has it.
func (f *startFlags) place(given map[string]any) error {
	if f.insecure {
		config.Put(given, []string{"values", "insecure"}, true)
	}
	token, err := f.token.read()
	if err != nil {
		return err
	}
	if token != "" {
		config.Put(given, []string{"values", "token"}, token)
	}
	if f.join != "" {
		config.Put(given, []string{"values", "join"}, f.join)
	}
	if f.masterInfo != "" {
		masters, err := session.ParseLine(f.masterInfo)
		if err != nil {
			return err
		}
		config.Put(given, []string{"values", "join"}, strings.Join(masters, ","))
	}
	if f.masters == "" {
		return nil
	}
	return config.PutMasters(given, f.masters)
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
