package cli

import (
	"context"
	"fmt"
	"math"
	"sort"
	"strings"
	"time"

	"yr/pkg/gateway/client"
	"yr/pkg/gateway/scheduler"
)

// statusTimeout bounds what `yr status` and `yr health` wait for the daemon.
const statusTimeout = 2 * time.Second

// Status shows the cluster, whichever of its nodes is asked.
func Status(ctx context.Context, c *client.Client, out *Output) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var v statusView
	var err error
	if v.Master, err = c.MasterInfo(ctx); err != nil {
		return err
	}
	if v.ReadyAgents, err = c.AgentCount(ctx); err != nil {
		return err
	}
	if v.Resources, err = c.Resources(ctx); err != nil {
		return err
	}
	return out.Value(v, func() { out.Printf("%s", v) })
}

type statusView struct {
	Master      scheduler.MasterInfo `json:"master"`
	ReadyAgents int                  `json:"ready_agents"`
	scheduler.Resources
}

// String is the layout that scripts know; a block without data is left out.
func (v statusView) String() string {
	var b strings.Builder
	b.WriteString("Cluster Status:\n")
	if v.Master.MasterAddress+v.Master.MetaStoreAddress != "" {
		b.WriteString("  Endpoints:\n")
		line(&b, 4, "function_master", v.Master.MasterAddress)
		line(&b, 4, "meta_store", v.Master.MetaStoreAddress)
	}
	if members := v.Master.ScheduleTopo.Members; len(members) > 0 {
		b.WriteString("  Topology:\n")
		for _, m := range members {
			fmt.Fprintf(&b, "    - %s: %s\n", m.Name, m.Address)
		}
	}
	fmt.Fprintf(&b, "  ReadyAgentsCount: %d\n", v.ReadyAgents)
	root := v.Resource
	if root.ID == "" {
		return b.String()
	}
	fmt.Fprintf(&b, "  Resource: id=%s owner=%s\n", root.ID, root.OwnerID)
	unitLines(&b, 4, root)
	if len(root.Fragment) > 0 {
		b.WriteString("    Fragments:\n")
		for _, id := range sortedKeys(root.Fragment) {
			fmt.Fprintf(&b, "      %s:\n", id)
			unitLines(&b, 8, root.Fragment[id])
		}
	}
	return b.String()
}

func unitLines(b *strings.Builder, indent int, u scheduler.Unit) {
	line(b, indent, "capacity", amounts(u.Capacity))
	line(b, indent, "allocatable", amounts(u.Allocatable))
	line(b, indent, "actualUse", amounts(u.ActualUse))
}

func line(b *strings.Builder, indent int, key, value string) {
	if value != "" {
		fmt.Fprintf(b, "%s%s: %s\n", strings.Repeat(" ", indent), key, value)
	}
}

// amounts is "CPU=4000 Memory=8192": sorted by name, in whole numbers.
func amounts(a scheduler.Amounts) string {
	parts := make([]string, 0, len(a.Resources))
	for _, name := range sortedKeys(a.Resources) {
		parts = append(parts, fmt.Sprintf("%s=%d", name, int64(math.Round(a.Resources[name].Scalar.Value))))
	}
	return strings.Join(parts, " ")
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
