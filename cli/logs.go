package cli

import (
	"context"

	"yr/pkg/gateway/client"
	"yr/pkg/gateway/logs"
	"yr/pkg/yr"
)

// Logs prints what the worker of an instance, call or worker ID has printed,
// wherever in the cluster it ran. A living daemon knows which worker that is;
// after its end only the files of workers, by their own IDs, can be read.
func Logs(ctx context.Context, w Where, id string, opt client.LogOptions, out *Output) error {
	if w.Address == "" {
		f, err := w.Find()
		if err != nil {
			return err
		}
		if !f.Alive() {
			return endedLogs(ctx, f.Dir.Logs(), id, opt, out)
		}
	}
	c, err := w.Ask()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Logs(ctx, id, opt, out.Out)
}

func endedLogs(ctx context.Context, dir, id string, opt client.LogOptions, out *Output) error {
	r := logs.Reader{Dir: dir, Alive: func(string) bool { return false }}
	if !r.Exists(id) {
		return yr.E("logs", yr.InstanceNotFound,
			"the session has ended, and no worker %s left a log in %s; the files there are named runtime-WORKER.out and .err", id, dir)
	}
	req := logs.Request{Worker: id, Stream: logs.Stream(opt.Stream), Tail: opt.Tail}
	return r.Copy(ctx, out.Out, req, func() {})
}
