package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"yr/pkg/gateway/answer"
	"yr/pkg/gateway/client"
	"yr/pkg/yr"
)

// ListOptions choose what to list.
type ListOptions struct {
	What   string // one of Listings
	Filter client.Filter
}

// A listing shows one kind of thing as a table.
type listing struct {
	name string
	show func(context.Context, *client.Client, client.Filter, *Output) error
}

var listings = []listing{
	{"nodes", func(ctx context.Context, c *client.Client, _ client.Filter, out *Output) error {
		nodes, err := c.Nodes(ctx)
		page := answer.Page[yr.NodeView]{Items: nodes, Total: len(nodes)}
		return show(out, page, err, nodeRow, "ID", "ADDRESS", "ROLE", "STATE", "CPU", "MEMORY", "OTHER", "WORKERS", "STORE", "VERSION", "REASON")
	}},
	{"instances", func(ctx context.Context, c *client.Client, f client.Filter, out *Output) error {
		page, err := c.Instances(ctx, f)
		return show(out, page, err, instanceRow, "ID", "NAME", "CLASS", "JOB", "NODE", "STATE", "PID", "RESOURCES", "PENDING", "RESTARTS", "AGE", "REASON")
	}},
	{"calls", func(ctx context.Context, c *client.Client, f client.Filter, out *Output) error {
		page, err := c.Calls(ctx, f)
		return show(out, page, err, callRow, "ID", "FUNCTION", "JOB", "NODE", "STATE", "WORKER", "ATTEMPT", "AGE", "REASON")
	}},
	{"objects", func(ctx context.Context, c *client.Client, f client.Filter, out *Output) error {
		page, err := c.Objects(ctx, f)
		return show(out, page, err, objectRow, "ID", "JOB", "NODE", "STATE", "WHERE", "SIZE", "REFS", "OWNER")
	}},
	{"workers", func(ctx context.Context, c *client.Client, f client.Filter, out *Output) error {
		page, err := c.Workers(ctx, f)
		return show(out, page, err, workerRow, "ID", "CLASS", "JOB", "NODE", "STATE", "PID", "RESOURCES", "PENDING", "AGE", "REASON")
	}},
}

// Listings names what List can show.
func Listings() []string {
	names := make([]string, len(listings))
	for i, l := range listings {
		names[i] = l.name
	}
	return names
}

// List shows things of one kind.
func List(ctx context.Context, c *client.Client, opt ListOptions, out *Output) error {
	for _, l := range listings {
		if l.name == opt.What {
			return l.show(ctx, c, opt.Filter, out)
		}
	}
	return yr.E("list", yr.ParamInvalid, "there is no list of %s; there are %s", opt.What, strings.Join(Listings(), ", "))
}

func show[V any](out *Output, page answer.Page[V], err error, row func(V) []any, header ...any) error {
	if err != nil {
		return err
	}
	for _, u := range page.Unreachable {
		out.Warnf("%s", missing(u))
	}
	return out.Value(page.Items, func() {
		rows := make([][]any, len(page.Items))
		for i, v := range page.Items {
			rows[i] = row(v)
		}
		out.Table(header, rows)
		if page.Total > page.Offset+len(rows) {
			out.Printf("%d of %d shown; --limit and --offset show others\n", len(rows), page.Total)
		}
	})
}

// missing says whose entries a list lacks, and why.
func missing(u answer.Unreachable) string {
	if u.Node == "" {
		return u.Reason
	}
	return fmt.Sprintf("node %s (%s) did not answer, what it has is missing here: %s", u.Node, u.Address, u.Reason)
}

// Why shows what something waits for, or why it ended.
func Why(ctx context.Context, c *client.Client, id string, out *Output) error {
	e, err := c.Why(ctx, id)
	if err != nil {
		return err
	}
	return out.Value(e, func() {
		out.Printf("%s %s is %s: %s\n", e.Kind, e.ID, e.State, e.Reason)
		for i, step := range e.Trail {
			out.Printf("%s%s\n", strings.Repeat("  ", i+1), step)
		}
	})
}

func nodeRow(n yr.NodeView) []any {
	role := "agent"
	switch {
	case n.Leader:
		role = "leader"
	case n.Master:
		role = "master"
	}
	used := func(name string) string {
		return fmt.Sprintf("%g/%g", n.Capacity[name]-n.Available[name], n.Capacity[name])
	}
	other := map[string]float64{}
	for name, v := range n.Capacity {
		if name != yr.CPU && name != yr.Memory {
			other[name] = v
		}
	}
	return []any{n.ID, n.Address, role, n.State, used(yr.CPU), used(yr.Memory), pairs(other), n.Workers,
		size(n.Store.Live) + "/" + size(n.Store.Capacity), n.Version, n.Reason}
}

func instanceRow(v yr.InstanceView) []any {
	return []any{v.ID, v.Name, v.Class, v.Job, v.Node, v.State, v.PID, pairs(v.Resources), v.Pending, v.Restarts, age(v.Since), v.Reason}
}

func workerRow(v yr.InstanceView) []any {
	return []any{v.ID, v.Class, v.Job, v.Node, v.State, v.PID, pairs(v.Resources), v.Pending, age(v.Since), v.Reason}
}

func callRow(v yr.CallView) []any {
	return []any{v.ID, v.Function, v.Job, v.Node, v.State, v.Worker, v.Attempt, age(v.Since), v.Reason}
}

func objectRow(v yr.ObjectView) []any {
	return []any{v.ID, v.Job, v.Node, v.State, v.Where, size(v.Size), v.Refs, v.Owner}
}

// pairs is "CPU=500 Memory=500", by name.
func pairs(m map[string]float64) string {
	parts := make([]string, 0, len(m))
	for _, name := range sortedKeys(m) {
		parts = append(parts, fmt.Sprintf("%s=%g", name, m[name]))
	}
	return strings.Join(parts, " ")
}

// size is a number of bytes for people.
func size(n uint64) string {
	const units = "KMGT"
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	v, u := float64(n)/1024, 0
	for v >= 1024 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	return fmt.Sprintf("%.3g%ciB", v, units[u])
}

func age(since time.Time) string {
	if since.IsZero() {
		return ""
	}
	d := time.Since(since)
	switch {
	case d < time.Minute:
		return d.Truncate(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Truncate(time.Second).String()
	}
	return d.Truncate(time.Minute).String()
}
