package peer

import (
	"context"
	"time"

	"yr/pkg/yr"
)

// A pool is the bulk connections to one node, each used by one transfer at a time
// and kept a while for the next.
type pool struct {
	p     *Peers
	key   poolKey
	slots chan struct{} // one per running transfer

	// Guarded by Peers.mu.
	users int // transfers, running or waiting
	idle  []idleConn
	gone  bool // not in the table any more
}

type poolKey struct {
	node    yr.Node
	address string
}

type idleConn struct {
	sock  *socket
	since time.Time
}

// enter waits until one more transfer may run.
func (p *Peers) enter(ctx context.Context, key poolKey) (*pool, error) {
	p.mu.Lock()
	po := p.pools[key]
	if po == nil {
		po = &pool{p: p, key: key, slots: make(chan struct{}, MaxFetches)}
		p.pools[key] = po
	}
	po.users++
	p.mu.Unlock()
	var err error
	select {
	case po.slots <- struct{}{}:
		return po, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-p.ctx.Done():
		err = ErrClosed
	}
	p.quit(po)
	return nil, yr.Wrap("peer: fetch", yr.Communication, err)
}

// leave is the inverse of enter.
func (p *Peers) leave(po *pool) {
	<-po.slots
	p.quit(po)
}

func (p *Peers) quit(po *pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	po.users--
	po.retire()
}

// retire takes a pool out of the table that is of no use; Peers.mu is held.
func (po *pool) retire() {
	if po.users == 0 && len(po.idle) == 0 && !po.gone {
		po.gone = true
		delete(po.p.pools, po.key)
	}
}

// once runs a transfer on one connection. again says that the connection was an
// old one and may have been dead already, which is no news about the node.
func (po *pool) once(ctx context.Context, t *transfer) (again bool, err error) {
	sock := po.take()
	again = sock != nil
	if sock == nil {
		own := po.p.own(0)
		var welcome *message
		if sock, welcome, err = po.p.dial(ctx, po.key.address, protocolBulk, po.key.node, own); err != nil {
			return false, err
		}
		if err := po.p.checkFence(welcome.node, welcome.incarnation); err != nil {
			sock.drop()
			return false, err
		}
	}
	clean, err := t.run(ctx, sock)
	if clean {
		po.put(sock)
	} else {
		sock.drop()
	}
	return again, err
}

// take returns the idle connection that was used last, nil if there is none.
func (po *pool) take() *socket {
	po.p.mu.Lock()
	defer po.p.mu.Unlock()
	k := len(po.idle) - 1
	if k < 0 {
		return nil
	}
	c := po.idle[k]
	po.idle = po.idle[:k]
	return c.sock
}

// put keeps a connection for the next transfer.
func (po *pool) put(sock *socket) {
	po.p.mu.Lock()
	defer po.p.mu.Unlock()
	if po.p.closed || po.gone || po.p.pools[po.key] != po {
		sock.drop()
		return
	}
	po.idle = append(po.idle, idleConn{sock, time.Now()})
}

// agePools closes connections that were idle for long.
func (p *Peers) agePools(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, po := range p.pools {
		k := 0
		for k < len(po.idle) && now.Sub(po.idle[k].since) > p.pace.idle {
			po.idle[k].sock.drop()
			k++
		}
		po.idle = append(po.idle[:0], po.idle[k:]...)
		po.retire()
	}
}

// closePools closes the idle connections of some pools.
func (p *Peers) closePools(which func(poolKey) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, po := range p.pools {
		if !which(key) {
			continue
		}
		for _, c := range po.idle {
			c.sock.drop()
		}
		po.idle = nil
		po.retire()
	}
}
