package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"sort"
	"strings"

	"yr/pkg/session"
	"yr/pkg/yr"
)

// masterInfo is the answer of /global-scheduler/masterinfo.
type masterInfo struct {
	MasterAddress    string `json:"master_address"`
	MetaStoreAddress string `json:"meta_store_address"`
	ScheduleTopo     struct {
		Members []struct {
			Name    string `json:"name"`
			Address string `json:"address"`
		} `json:"members"`
	} `json:"schedule_topo"`
}

// amounts is a set of resources as /global-scheduler/resources has it. An amount
// may be a number or a text.
type amounts struct {
	Resources map[string]struct {
		Scalar struct {
			Value any `json:"value"`
		} `json:"scalar"`
	} `json:"resources"`
}

type unit struct {
	ID          string           `json:"id"`
	OwnerID     string           `json:"ownerId"`
	Capacity    *amounts         `json:"capacity"`
	Allocatable *amounts         `json:"allocatable"`
	ActualUse   *amounts         `json:"actualUse"`
	Fragment    map[string]*unit `json:"fragment"`
}

// Status shows the cluster. It needs the session of a master.
func Status(ctx context.Context, f *session.File, out *Output) error {
	if f.Mode != "master" {
		return yr.E("status", yr.ParamInvalid, "session %s is not a master's; ask on the master's machine", f.SessionID)
	}
	api := NewAPI(f)
	var info masterInfo
	var count json.Number
	var resources struct {
		Resource *unit `json:"resource"`
	}
	if err := api.Get(ctx, "/global-scheduler/masterinfo", &info); err != nil {
		return err
	}
	if err := api.Get(ctx, "/global-scheduler/queryagentcount", &count); err != nil {
		return err
	}
	if err := api.Get(ctx, "/global-scheduler/resources", &resources); err != nil {
		return err
	}
	view := map[string]any{"master": info, "ready_agents": count, "resource": resources.Resource}
	return out.Value(view, func() { out.Printf("%s", statusText(info, count.String(), resources.Resource)) })
}

// statusText is the layout that scripts know; a block without data is left out.
func statusText(info masterInfo, count string, root *unit) string {
	var b strings.Builder
	b.WriteString("Cluster Status:\n")
	if info.MasterAddress+info.MetaStoreAddress != "" {
		b.WriteString("  Endpoints:\n")
		line(&b, 4, "function_master", info.MasterAddress)
		line(&b, 4, "meta_store", info.MetaStoreAddress)
	}
	if len(info.ScheduleTopo.Members) > 0 {
		b.WriteString("  Topology:\n")
		for _, m := range info.ScheduleTopo.Members {
			fmt.Fprintf(&b, "    - %s: %s\n", m.Name, m.Address)
		}
	}
	line(&b, 2, "ReadyAgentsCount", count)
	if root == nil {
		return b.String()
	}
	fmt.Fprintf(&b, "  Resource: id=%s owner=%s\n", root.ID, root.OwnerID)
	root.write(&b, 4)
	if len(root.Fragment) > 0 {
		b.WriteString("    Fragments:\n")
		for _, id := range sortedKeys(root.Fragment) {
			fmt.Fprintf(&b, "      %s:\n", id)
			root.Fragment[id].write(&b, 8)
		}
	}
	return b.String()
}

func (u *unit) write(b *strings.Builder, indent int) {
	line(b, indent, "capacity", u.Capacity.String())
	line(b, indent, "allocatable", u.Allocatable.String())
	line(b, indent, "actualUse", u.ActualUse.String())
}

func line(b *strings.Builder, indent int, key, value string) {
	if value != "" {
		fmt.Fprintf(b, "%s%s: %s\n", strings.Repeat(" ", indent), key, value)
	}
}

// String is "CPU=4000 Memory=8192": sorted by name, whole numbers, and only
// entries that have a number.
func (a *amounts) String() string {
	if a == nil {
		return ""
	}
	var pairs []string
	for _, name := range sortedKeys(a.Resources) {
		switch v := a.Resources[name].Scalar.Value.(type) {
		case float64:
			pairs = append(pairs, fmt.Sprintf("%s=%d", name, int64(math.Round(v))))
		case string:
			var n json.Number = json.Number(v)
			if x, err := n.Float64(); err == nil {
				pairs = append(pairs, fmt.Sprintf("%s=%d", name, int64(math.Round(x))))
			}
		}
	}
	return strings.Join(pairs, " ")
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
