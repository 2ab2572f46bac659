package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"yr/pkg/session"
	"yr/pkg/yr"
)

// A listing shows one kind of thing as a table.
type listing struct {
	name   string
	path   string
	header []any
	rows   func(raw json.RawMessage) ([][]any, error)
}

var listings = []listing{
	{"nodes", "/yr/v1/nodes", []any{"ID", "ADDRESS", "ROLE", "STATE", "CPU", "MEMORY", "OTHER", "WORKERS", "STORE"}, rowsOf(nodeRow)},
	{"instances", "/yr/v1/instances", []any{"ID", "NAME", "CLASS", "JOB", "STATE", "PID", "RESOURCES", "PENDING", "RESTARTS", "AGE", "REASON"}, rowsOf(instanceRow)},
	{"calls", "/yr/v1/calls", []any{"ID", "FUNCTION", "JOB", "STATE", "WORKER", "ATTEMPT", "AGE", "REASON"}, rowsOf(callRow)},
	{"objects", "/yr/v1/objects", []any{"ID", "JOB", "STATE", "WHERE", "SIZE", "REFS", "OWNER"}, rowsOf(objectRow)},
	{"workers", "/yr/v1/workers", []any{"ID", "CLASS", "JOB", "STATE", "PID", "RESOURCES", "PENDING", "AGE", "REASON"}, rowsOf(workerRow)},
}

// Listings names what List can show.
func Listings() []string {
	names := make([]string, len(listings))
	for i, l := range listings {
		names[i] = l.name
	}
	return names
}

// List shows the things of that name.
func List(ctx context.Context, f *session.File, name string, out *Output) error {
	for _, l := range listings {
		if l.name != name {
			continue
		}
		var raw json.RawMessage
		if err := NewAPI(f).Get(ctx, l.path, &raw); err != nil {
			return err
		}
		rows, err := l.rows(raw)
		if err != nil {
			return err
		}
		return out.Value(raw, func() { out.Table(l.header, rows) })
	}
	return yr.E("list", yr.ParamInvalid, "there are no %s; there are %s", name, strings.Join(Listings(), ", "))
}

// Why shows what something waits for, or why it ended.
func Why(ctx context.Context, f *session.File, id string, out *Output) error {
	var e yr.Explanation
	if err := NewAPI(f).Get(ctx, "/yr/v1/why/"+url.PathEscape(id), &e); err != nil {
		return err
	}
	return out.Value(e, func() {
		out.Printf("%s %s is %s: %s\n", e.Kind, e.ID, e.State, e.Reason)
		for i, step := range e.Trail {
			out.Printf("%s%s\n", strings.Repeat("  ", i+1), step)
		}
	})
}

// rowsOf decodes a list of views and makes each a row.
func rowsOf[V any](row func(V) []any) func(json.RawMessage) ([][]any, error) {
	return func(raw json.RawMessage) ([][]any, error) {
		var views []V
		if err := json.Unmarshal(raw, &views); err != nil {
			return nil, yr.E("list", yr.Communication, "the daemon's answer is not a list: %v", err)
		}
		rows := make([][]any, len(views))
		for i, v := range views {
			rows[i] = row(v)
		}
		return rows, nil
	}
}

func nodeRow(n yr.NodeView) []any {
	role := "agent"
	if n.Master {
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
		size(n.Store.Live) + "/" + size(n.Store.Capacity)}
}

func instanceRow(v yr.InstanceView) []any {
	return []any{v.ID, v.Name, v.Class, v.Job, v.State, v.PID, pairs(v.Resources), v.Pending, v.Restarts, age(v.Since), v.Reason}
}

func workerRow(v yr.InstanceView) []any {
	return []any{v.ID, v.Class, v.Job, v.State, v.PID, pairs(v.Resources), v.Pending, age(v.Since), v.Reason}
}

func callRow(v yr.CallView) []any {
	return []any{v.ID, v.Function, v.Job, v.State, v.Worker, v.Attempt, age(v.Since), v.Reason}
}

func objectRow(v yr.ObjectView) []any {
	return []any{v.ID, v.Job, v.State, v.Where, size(v.Size), v.Refs, v.Owner}
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
