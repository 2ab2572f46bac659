package cmd

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"yr/pkg/supervise"
)

// supervise is the parent of the daemon.
func (a *app) supervise() *cobra.Command {
	var keep []string
	c := &cobra.Command{
		Use:    "supervise [--keep NAME=FD]... -- ARGV...",
		Hidden: true,
		Short:  "Keep a child of this binary alive and hold its descriptors (started by start)",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("supervise wants the arguments of the child after --")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			kept := map[string]*os.File{}
			for _, k := range keep {
				name, number, _ := strings.Cut(k, "=")
				fd, err := strconv.Atoi(number)
				if err != nil || name == "" {
					return usagef("--keep %s is not NAME=FD", k)
				}
				kept[name] = os.NewFile(uintptr(fd), name)
			}
			p := &supervise.Parent{Argv: args, Env: os.Environ(), Kept: kept, Log: parentLog}
			return exitStatus(p.Run(context.Background()), nil)
		},
	}
	c.Flags().StringArrayVar(&keep, "keep", nil, "a descriptor that the child gets, `NAME=FD`")
	return c
}

// parentLog writes to the daemon log, which is the parent's standard error.
func parentLog(format string, args ...any) {
	_, _ = fmt.Fprintf(os.Stderr, "%s parent[%d] %s\n", time.Now().Format("2006-01-02T15:04:05.000Z07:00"), os.Getpid(), fmt.Sprintf(format, args...))
}
