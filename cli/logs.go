package cli

import (
	"context"

	"yr/pkg/gateway/client"
	"yr/pkg/gateway/logs"
	"yr/pkg/session"
	"yr/pkg/yr"
)

// Logs prints what the worker of an instance, call or worker ID has printed. A
// living daemon knows which worker that is; after its end only the files of
// workers, by their own IDs, can be read.
func Logs(ctx context.Context, f *session.File, id string, opt client.LogOptions, out *Output) error {
	if f.Alive() {
		c := client.Unix(f.APISocket)
		defer c.Close()
		return c.Logs(ctx, id, opt, out.Out)
	}
	r := logs.Reader{Dir: f.Dir.Logs(), Alive: func(string) bool { return false }}
	if !r.Exists(id) {
		return yr.E("logs", yr.InstanceNotFound,
			"the session has ended, and no worker %s left a log in %s; the files there are named runtime-WORKER.out and .err", id, f.Dir.Logs())
	}
	req := logs.Request{Worker: id, Stream: logs.Stream(opt.Stream), Tail: opt.Tail}
	return r.Copy(ctx, out.Out, req, func() {})
}
