package route

import (
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

// shortage says that a worker does not fit now, and why.
type shortage struct {
	short  bool
	reason string
}

// place asks the scheduler for room for w and takes it.
func (r *Router) place(w *worker, need yr.Resources, o *wirepb.Options) (shortage, error) {
	if err := r.infeasible(need, o, w.job); err != nil {
		return shortage{}, err
	}
	if name, ok := r.free.Fits(need); !ok {
		return shortage{true, name + ": Not Enough"}, nil
	}
	w.need = need
	r.free.Sub(need)
	return shortage{}, nil
}

// infeasible is why no node can ever hold this, or nil.
func (r *Router) infeasible(need yr.Resources, _ *wirepb.Options, _ *job) error {
	if name, ok := r.opt.Resources.Fits(need); !ok {
		return yr.E("schedule", yr.ResourceConfigError, "invalid resource parameter: no node can ever hold %s=%s (largest node has %s)", name, need[name], r.opt.Resources[name])
	}
	return nil
}

func (r *Router) returnDevices(*worker) {}

func visibleDevices(_ map[string][]int, _ map[string]string) map[string]string { return nil }
