package durable

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"yr/pkg/yr"
)

// blobs are the values over MaxInline of one voter: files named by their SHA-256.
//
// A value is on a majority's disks before the log entry that names it is proposed.
// Between the two nothing refers to it, so it is pinned. A pin is settled when the
// voter has applied an entry of a later term, or one of the same term that says so
// (entry.pins): then the proposal has either been applied or never will be. What
// neither a record nor a pin holds is removed.
type blobs struct {
	dir   string
	fault Fault

	mu     sync.Mutex // protects what follows, and orders a removal against a new pin
	pins   map[sum]pin
	frozen int // while positive nothing is removed
}

// pin holds a blob for the id-th proposal with blobs of a leader's term.
type pin struct{ term, id uint64 }

const lastPin = ^uint64(0)

func openBlobs(dir string, fault Fault) (*blobs, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &blobs{dir: dir, fault: fault, pins: make(map[sum]pin)}, nil
}

func (s sum) String() string { return hex.EncodeToString(s[:]) }

func parseSum(name string) (s sum, ok bool) {
	b, err := hex.DecodeString(name)
	if err != nil || len(b) != len(s) {
		return s, false
	}
	return sum(b), true
}

func (b *blobs) path(of sum) string { return filepath.Join(b.dir, of.String()) }

func (b *blobs) has(of sum) bool {
	_, err := os.Stat(b.path(of))
	return err == nil
}

// put keeps a value and pins it. The file is durable when it returns.
func (b *blobs) put(of sum, value []byte, p pin) error {
	b.mu.Lock()
	old, pinned := b.pins[of]
	if !pinned || p.term > old.term || p.term == old.term && p.id > old.id {
		b.pins[of] = p
	}
	b.mu.Unlock()
	if b.has(of) {
		return nil
	}
	err := writeDurably(b.path(of), b.fault, func(w io.Writer) error {
		_, err := w.Write(value)
		return err
	})
	if err != nil {
		return diskError("write a large value", err)
	}
	return nil
}

// read loads a value and proves that it is the one. Errors: fs.ErrNotExist, ErrCorrupt.
func (b *blobs) read(of sum) ([]byte, error) {
	value, err := os.ReadFile(b.path(of))
	if missing(err) {
		return nil, err
	}
	if err != nil {
		return nil, diskError("read a large value", err)
	}
	if err := verify(of, value); err != nil {
		return nil, err
	}
	return value, nil
}

func verify(of sum, value []byte) error {
	if got := sum(sha256.Sum256(value)); got != of {
		return detail(ErrCorrupt, "the value %v is stored as %d bytes with the sum %v", of, len(value), got)
	}
	return nil
}

// discard removes a corrupt file, so that it can be fetched anew.
func (b *blobs) discard(of sum) error { return os.Remove(b.path(of)) }

// settle drops the pins that are settled by an entry of a term, and removes what
// nothing holds any more: of the named ones and of those unpinned. held says whether
// a record has a value; it is asked about unpinned ones only.
func (b *blobs) settle(term, pins uint64, named map[sum]bool, held func(sum) (bool, error)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for of, p := range maps.Clone(b.pins) {
		if p.term > term || p.term == term && p.id >= pins {
			continue
		}
		delete(b.pins, of)
		has, known := named[of]
		if !known {
			var err error
			if has, err = held(of); err != nil {
				return err
			}
		}
		if !has {
			b.remove(of)
		}
	}
	for of, has := range named {
		if _, pinned := b.pins[of]; !has && !pinned {
			b.remove(of)
		}
	}
	return nil
}

// freeze keeps everything until the function it returns is called.
func (b *blobs) freeze() (thaw func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.frozen++
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.frozen--
	}
}

// remove is best effort: a file that stays is found again by adopt.
func (b *blobs) remove(of sum) {
	if b.frozen > 0 {
		b.pins[of] = pin{} // the next entry looks again
		return
	}
	if b.fault.check("remove", b.path(of)) == nil {
		_ = os.Remove(b.path(of))
	}
}

// adopt looks at the files after a start in a term: those that no record has may
// belong to an entry that is still to be committed, so they are pinned until a later
// term. Half-written files are removed.
func (b *blobs) adopt(term uint64, held func(sum) (bool, error)) error {
	return b.each(func(of sum, _ fs.DirEntry) error {
		has, err := held(of)
		if err == nil && !has {
			b.mu.Lock()
			b.pins[of] = pin{term, lastPin}
			b.mu.Unlock()
		}
		return err
	})
}

func (b *blobs) each(f func(sum, fs.DirEntry) error) error {
	files, err := os.ReadDir(b.dir)
	if err != nil {
		return err
	}
	for _, file := range files {
		if strings.Contains(file.Name(), ".tmp-") {
			_ = os.Remove(filepath.Join(b.dir, file.Name()))
			continue
		}
		of, ok := parseSum(file.Name())
		if !ok {
			return fmt.Errorf("%s: a file that is not ours", filepath.Join(b.dir, file.Name()))
		}
		if err := f(of, file); err != nil {
			return err
		}
	}
	return nil
}

// newTxn makes the op of a transaction. Large values stay in Value until the
// caller has put them somewhere.
func newTxn(t Txn, r request) (op, error) {
	if err := t.validate(); err != nil {
		return op{}, err
	}
	o := op{kind: opTxn, request: r, conditions: t.If}
	if len(t.Do) > 0 {
		o.writes = make([]write, len(t.Do))
	}
	for i, w := range t.Do {
		o.writes[i] = write{Write: w, size: int64(len(w.Value))}
		if len(w.Value) > MaxInline {
			o.writes[i].large, o.writes[i].sum = true, sha256.Sum256(w.Value)
		}
	}
	return o, nil
}

// hasLarge says whether the op names large values.
func (o *op) hasLarge() bool {
	for i := range o.writes {
		if o.writes[i].large {
			return true
		}
	}
	return false
}

// pinner numbers a leader's proposals with blobs and knows the oldest that is open.
type pinner struct {
	mu   sync.Mutex
	next uint64
	open map[uint64]struct{}
}

func newPinner() *pinner { return &pinner{next: 1, open: make(map[uint64]struct{})} }

func (p *pinner) take() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := p.next
	p.next++
	p.open[id] = struct{}{}
	return id
}

func (p *pinner) release(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, id)
}

// settled is the number below which every proposal is settled.
func (p *pinner) settled() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	oldest := p.next
	for id := range p.open {
		oldest = min(oldest, id)
	}
	return oldest
}

// notStored is the error when a majority could not keep a large value. If this
// voter's disk was the last to say no, its code is the public one.
func notStored(last error) error {
	code := ErrUnavailable.Code
	if c := yr.CodeOf(last); c == yr.DiskFull || c == yr.DiskFailed {
		code = c
	}
	return &yr.Error{Op: "records", Code: code, Msg: "a large value could not be stored on a majority", Err: errors.Join(ErrUnavailable, last)}
}

// majority calls put for every place and returns when most of them have succeeded,
// or can no longer. The calls that are still running go on; wg counts them.
func majority(ctx context.Context, wg *crew, places int, put func(place int) error) error {
	results := make(chan error, places)
	for i := range places {
		if !wg.Go(func() { results <- put(i) }) {
			return ErrClosed
		}
	}
	need, left := places/2+1, places
	for {
		select {
		case <-ctx.Done():
			return refused(ctx)
		case err := <-results:
			left--
			if err == nil {
				need--
			}
			if need == 0 {
				return nil
			}
			if left < need {
				return notStored(err)
			}
		}
	}
}
