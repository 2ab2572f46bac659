package agent

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"yr/pkg/durable"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

// keeper keeps detached instances in the records.
type keeper struct{ store durable.Store }

// keptPrefix begins the keys of kept instances.
const keptPrefix = "agent/instances/"

func (k keeper) Keep(ctx context.Context, id yr.ID, record []byte) error {
	_, err := durable.Put(ctx, k.store, keptPrefix+id.String(), record)
	return err
}

func (k keeper) Drop(ctx context.Context, id yr.ID) error {
	return durable.Delete(ctx, k.store, keptPrefix+id.String())
}

func (k keeper) Find(ctx context.Context, id yr.ID) (record []byte, ok bool, err error) {
	r, ok, err := k.store.Get(ctx, keptPrefix+id.String())
	return r.Value, ok, err
}

// Revive makes the kept instances of a lost node anew, with this node as their
// home: the leader's own, which others find by their records. It may be called again.
func (a *Agent) Revive(ctx context.Context, lost yr.Node) error {
	from, end := keptPrefix, durable.PrefixEnd(keptPrefix)
	for {
		page, err := a.opt.Records.Range(ctx, from, end, 0)
		if err != nil {
			return err
		}
		for _, r := range page.Records {
			from = r.Key + "\x00"
			m := &wirepb.KeptInstance{}
			if err := proto.Unmarshal(r.Value, m); err != nil {
				a.opt.Log.Error().Err(err).Str("instance", strings.TrimPrefix(r.Key, keptPrefix)).Msg("the record of an instance cannot be read")
				continue
			}
			if yr.Node(m.GetNode()) != lost {
				continue
			}
			if m.GetRestarts() >= m.GetCreate().GetOptions().GetRecoverRetryTimes() {
				a.opt.Log.Warn().Str("instance", strings.TrimPrefix(r.Key, keptPrefix)).Msg("an instance of a lost node has used up its restarts")
				if err := durable.Delete(ctx, a.opt.Records, r.Key); err != nil {
					return err
				}
				continue
			}
			if err := a.router.Revive(r.Value); err != nil {
				return err
			}
		}
		if !page.More {
			return nil
		}
	}
}

// reviveOwn makes the kept instances of this node anew after it was switched off
// and on again, before anybody missed it.
func (a *Agent) reviveOwn(ctx context.Context) {
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, revivePatience)
		err := a.Revive(try, a.opt.Node)
		cancel()
		if err == nil {
			return
		}
		a.opt.Log.Debug().Err(err).Msg("the records do not say yet whether instances of this node are to be made anew")
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// revivePatience bounds one look into the records.
const revivePatience = 5 * time.Second
