package cmd

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"yr/cli"
	"yr/pkg/gateway/client"
)

// tokenFlags are the two ways to give the cluster's token on the command line.
type tokenFlags struct{ token, file string }

func (t *tokenFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&t.token, "token", "", "the cluster's `token`; other users of the machine may see it here (default $YR_TOKEN)")
	flags.StringVar(&t.file, "token-file", "", "a `file` that holds the cluster's token")
}

// read returns the token, empty if neither way was used.
func (t *tokenFlags) read() (string, error) {
	switch {
	case t.token != "" && t.file != "":
		return "", usagef("--token and --token-file say the same thing; give only one of them")
	case t.file != "":
		return cli.ReadToken(t.file)
	}
	return t.token, nil
}

// whereFlags adds the options that say which session of this machine a command is about.
func (a *app) whereFlags(c *cobra.Command, w *cli.Where) *cobra.Command {
	c.Flags().StringVar(&w.Prefix, "log-dir-prefix", defaultPrefix, "`directory` of the session, as given to yr start")
	c.Flags().StringVarP(&w.File, "file", "f", "", "a session.json `file`, instead of the newest session")
	return c
}

// target is the daemon that a command asks: of a session here, or any node.
type target struct {
	cli.Where
	token tokenFlags
}

// targetFlags adds the options that choose it.
func (a *app) targetFlags(c *cobra.Command, t *target) *cobra.Command {
	return t.remoteFlags(a.whereFlags(c, &t.Where))
}

func (t *target) remoteFlags(c *cobra.Command) *cobra.Command {
	c.Flags().StringVar(&t.Address, "address", "", "ask the node at `HOST:PORT`, with the cluster's token, instead of one here")
	t.token.add(c.Flags())
	return c
}

// resolve finds out what an address needs: the token and the certificates.
func (a *app) resolve(t *target) (cli.Where, error) {
	if t.Address == "" {
		return t.Where, nil
	}
	var err error
	if t.Token, err = t.token.read(); err != nil {
		return t.Where, err
	}
	t.Config, err = a.loadConfig(nil, nil)
	return t.Where, err
}

// ask runs a command against the daemon that was chosen.
func (a *app) ask(t *target, command func(*client.Client) error) error {
	where, err := a.resolve(t)
	if err != nil {
		return err
	}
	c, err := where.Ask()
	if err != nil {
		return err
	}
	defer c.Close()
	return command(c)
}
