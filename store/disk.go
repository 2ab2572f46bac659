package store

// Blobs that moved out of memory, in files. This is room, not durability: nothing
// is synced, and a machine that goes down takes it along. A daemon that was
// restarted finds its blobs again (diskscan.go).
//
// Put and Get are called by goroutines that may wait for the disk; everything else
// returns in microseconds. What takes longer is done by the sweeper, one goroutine,
// owned by Open and Close.

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"sync"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"yr/pkg/yr"
)

// DiskOptions configure a Disk. Only Dir is needed.
type DiskOptions struct {
	// Dir is made if it is not there. One Disk uses it, and nobody else does.
	Dir string
	// Capacity bounds the space taken, in bytes. 0: what leaves a twentieth of the
	// file system free.
	Capacity uint64
	// FileSize is where a file of small blobs ends. 0: DefaultFileSize.
	FileSize uint64

	Log zerolog.Logger
}

const (
	// spareShare of the room is left by Put for Swap: without it, nothing that is on
	// a full disk could be exchanged for something in a full memory.
	spareShare = 16
	// DefaultFileSize keeps the number of files small, and each quick to walk.
	DefaultFileSize = 200 * mib
	// diskPiece is read or written at a time: it stays in the processor's cache.
	diskPiece = 1 * mib
)

// ErrCorrupt is inside the error of a Get whose bytes are not those that were put.
var ErrCorrupt = errors.New("the bytes on disk are not those that were written")

// Spot is where a blob lies on this node's [Disk]; the zero Spot is nowhere.
type Spot struct {
	File   uint32 // from 1
	Offset uint32 // of the bytes
	Sum    uint32 // CRC-32C of the bytes
	Length uint64
}

// DiskStats are sizes in bytes.
type DiskStats struct {
	Capacity uint64 // 0: as the file system allows
	Used     uint64 // blocks taken, freed ones too until they are given back
	Live     uint64 // bytes of blobs
	Blobs    int
	Files    int
	Written  uint64 // since Open
	Read     uint64
}

// Disk is the spill directory of one node. Safe for concurrent use.
type Disk struct {
	opt  DiskOptions
	lock *os.File // the directory, locked

	sweeping sync.Mutex // held while one piece of waste is given back; taken before mu

	mu      sync.Mutex
	files   map[uint32]*spillFile
	idle    []*spillFile // small blobs are added to these; nobody writes to them now
	last    uint32       // the last file number given
	stats   DiskStats
	punches bool                // the file system gives back parts of files
	found   map[yr.ID]foundBlob // of an earlier daemon, until EndRecovery
	waste   []waste
	closed  bool

	kick    chan struct{}
	stop    context.CancelFunc
	sweeper sync.WaitGroup
}

// spillFile is a file of one large blob, or of many.
type spillFile struct {
	number  uint32
	f       *os.File // open while blobs are added
	end     uint64   // where the next record goes
	cost    uint64   // what it counts for in Used
	writing bool     // one Put has it
	records map[uint32]recordPlace
}

// recordPlace is where the record of a blob is, by the offset of its bytes.
type recordPlace struct {
	start  uint64
	head   uint64 // bytes from start that stay when the blob is deleted
	span   uint64
	length uint64
}

// waste is what the sweeper is to give back: a record, or all of a file.
type waste struct {
	file   *spillFile
	record recordPlace
	whole  bool
}

// NewDisk returns a Disk that does nothing until Open.
func NewDisk(opt DiskOptions) *Disk {
	if opt.FileSize == 0 {
		opt.FileSize = DefaultFileSize
	}
	opt.FileSize = min(max(opt.FileSize, mib), gib)
	return &Disk{
		opt:     opt,
		files:   make(map[uint32]*spillFile),
		found:   make(map[yr.ID]foundBlob),
		punches: true,
		kick:    make(chan struct{}, 1),
	}
}

// Open takes the directory, and finds what an earlier daemon left in it.
func (d *Disk) Open(context.Context) error {
	op := "open spill directory " + d.opt.Dir
	if err := os.MkdirAll(d.opt.Dir, 0o700); err != nil {
		return yr.Wrap(op, yr.DiskFailed, err)
	}
	dir, err := os.Open(d.opt.Dir)
	if err != nil {
		return yr.Wrap(op, yr.DiskFailed, err)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = dir.Close()
		return yr.E(op, yr.AlreadyRunning, "another daemon spills there")
	}
	d.lock = dir
	d.stats.Capacity = d.opt.Capacity
	if err := d.scan(); err != nil {
		_ = dir.Close()
		return yr.Wrap(op, yr.DiskFailed, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.stop = cancel
	d.sweeper.Go(func() { d.run(ctx) })
	return nil
}

// Close gives back what is due and leaves the files to the next daemon. What is
// deleted afterwards stays on disk; everything else fails.
func (d *Disk) Close(context.Context) error {
	d.mu.Lock()
	opened := d.stop != nil && !d.closed
	d.closed = true
	d.mu.Unlock()
	if !opened {
		return nil
	}
	d.stop()
	d.sweeper.Wait()
	d.sweep()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, file := range d.idle {
		_ = file.f.Close()
	}
	return d.lock.Close()
}

// Put writes a blob. inside are the objects that its value refers to: what a
// restarted daemon has to know besides the bytes. The error has code DiskFull or
// DiskFailed; then nothing is kept.
func (d *Disk) Put(ctx context.Context, id yr.ID, inside []yr.ID, from *io.SectionReader) (Spot, error) {
	return d.put(ctx, id, inside, from, false)
}

// Swap is Put for a blob that makes room in memory for another one, which comes from
// here: it may use the last room that there is. The other one is to be deleted when
// the disk is Tight.
func (d *Disk) Swap(ctx context.Context, id yr.ID, inside []yr.ID, from *io.SectionReader) (Spot, error) {
	return d.put(ctx, id, inside, from, true)
}

// Tight reports whether the last room is in use: Put fails until something is deleted.
func (d *Disk) Tight() bool {
	free, keep, err := d.freeSpace(false)
	d.mu.Lock()
	defer d.mu.Unlock()
	return err == nil && (free < keep || d.stats.Used > d.limit(false))
}

func (d *Disk) put(ctx context.Context, id yr.ID, inside []yr.ID, from *io.SectionReader, last bool) (Spot, error) {
	op := "spill object " + id.String()
	r := record{state: recordOpen, id: id, inside: inside, length: uint64(from.Size())} //nolint:gosec // never negative
	if r.length == 0 || len(inside) > maxInside {
		return Spot{}, yr.E(op, yr.ParamInvalid, "it has %d bytes and %d references", r.length, len(inside))
	}
	file, err := d.begin(op, r.span(), last)
	if err != nil {
		return Spot{}, err
	}
	start := file.end
	err = d.write(ctx, file, start, &r, from)
	if err != nil {
		err = diskError(op, err)
	}
	d.finish(file, start, &r, err)
	return Spot{File: file.number, Offset: uint32(start + r.headLen()), Sum: r.sum, Length: r.length}, err //nolint:gosec // start is below FileSize
}

// begin finds a file for a record of this span, for the caller alone. last: it may
// use the spare room. The lock is not held while the file system is asked.
func (d *Disk) begin(op string, span uint64, last bool) (*spillFile, error) {
	free, keep, err := d.freeSpace(last)
	if err != nil {
		return nil, yr.Wrap(op, yr.DiskFailed, err)
	}
	file, err := d.charge(op, span, last, free, keep)
	if err != nil || file.f != nil {
		return file, err
	}
	f, err := os.OpenFile(d.path(file.number), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		delete(d.files, file.number)
		d.stats.Files--
		d.stats.Used -= span
		return nil, diskError(op, err)
	}
	file.f = f
	return file, nil
}

// freeSpace is what the file system has free, and what of it is to be kept.
func (d *Disk) freeSpace(last bool) (free, keep uint64, err error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(d.lock.Fd()), &fs); err != nil {
		return 0, 0, os.NewSyscallError("fstatfs", err)
	}
	block := uint64(fs.Bsize) //nolint:gosec // positive
	if d.opt.Capacity == 0 {
		keep = fs.Blocks * block / 20
		if !last {
			keep += keep / spareShare
		}
	}
	return min(fs.Bavail, fs.Bfree) * block, keep, nil
}

// charge takes room for a record, in a file that is idle or is to be made.
func (d *Disk) charge(op string, span uint64, last bool, free, keep uint64) (*spillFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	limit := d.limit(last)
	switch {
	case d.closed:
		return nil, yr.E(op, yr.Finalized, "the disk is closed")
	case free < span+keep:
		return nil, yr.E(op, yr.DiskFull, "the file system of %s has %s free, and it needs %s", d.opt.Dir, bytes(free), bytes(span+keep))
	case d.stats.Used+span > limit:
		return nil, yr.E(op, yr.DiskFull, "%s of %s for spilled objects are taken, and it needs %s", bytes(d.stats.Used), bytes(limit), bytes(span))
	}
	d.stats.Used += span
	if n := len(d.idle); n > 0 && !d.large(span) {
		file := d.idle[n-1]
		d.idle = d.idle[:n-1]
		file.writing = true
		file.cost += span
		return file, nil
	}
	d.last++
	for d.last == 0 || d.files[d.last] != nil { // numbers wrap around
		d.last++
	}
	file := &spillFile{number: d.last, cost: span, writing: true, records: make(map[uint32]recordPlace)}
	d.files[file.number] = file
	d.stats.Files++
	return file, nil
}

func (d *Disk) limit(last bool) uint64 {
	switch {
	case d.opt.Capacity == 0:
		return math.MaxUint64
	case last:
		return d.opt.Capacity
	}
	return d.opt.Capacity - d.opt.Capacity/spareShare
}

// large blobs have files of their own: their space comes back on any file system.
func (d *Disk) large(span uint64) bool { return span >= d.opt.FileSize/4 }

// write writes a record, and makes it whole at the end.
func (d *Disk) write(ctx context.Context, file *spillFile, start uint64, r *record, from *io.SectionReader) error {
	head := r.append(nil)
	if _, err := file.f.WriteAt(head, int64(start)); err != nil { //nolint:gosec // below 2^63, as all offsets here
		return err
	}
	buf := pieces.Get().(*[diskPiece]byte) //nolint:forcetypeassert // nothing else is put there
	defer pieces.Put(buf)
	at := start + uint64(len(head))
	for left := r.length; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		piece := buf[:min(left, diskPiece)]
		if _, err := io.ReadFull(from, piece); err != nil {
			return err
		}
		r.sum = crc32.Update(r.sum, castagnoli, piece)
		if _, err := file.f.WriteAt(piece, int64(at)); err != nil { //nolint:gosec // as above
			return err
		}
		at += uint64(len(piece))
		left -= uint64(len(piece))
	}
	r.state = recordWhole
	_, err := file.f.WriteAt(r.append(head[:0]), int64(start)) //nolint:gosec // as above
	return err
}

var pieces = sync.Pool{New: func() any { return new([diskPiece]byte) }}

// finish gives the file back to the others, with the record or without.
func (d *Disk) finish(file *spillFile, start uint64, r *record, err error) {
	if err != nil {
		_ = file.f.Truncate(int64(start)) //nolint:gosec // as above; what it leaves is overwritten by the next record
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	file.writing = false
	if err != nil {
		file.cost -= r.span()
		d.stats.Used -= r.span()
	} else {
		file.records[uint32(start+r.headLen())] = r.place(start) //nolint:gosec // as in Put
		file.end = start + r.span()
		d.stats.Blobs++
		d.stats.Live += r.length
		d.stats.Written += r.length
	}
	switch {
	case len(file.records) == 0:
		d.discard(file)
	case file.end >= d.opt.FileSize || d.large(r.span()):
		_ = file.f.Close()
		file.f = nil
	default:
		d.idle = append(d.idle, file)
	}
}

// Get reads a blob into dst, which has its length. What is not exactly what was put
// is an error: code DiskFailed, with ErrCorrupt inside if the bytes differ.
func (d *Disk) Get(ctx context.Context, spot Spot, dst []byte) error {
	op := fmt.Sprintf("read spilled blob of %d bytes at %d in %s", spot.Length, spot.Offset, d.path(spot.File))
	if uint64(len(dst)) != spot.Length {
		return yr.E(op, yr.ParamInvalid, "there is room for %d bytes", len(dst))
	}
	f, err := os.Open(d.path(spot.File))
	if err != nil {
		return yr.Wrap(op, yr.DiskFailed, err)
	}
	defer f.Close()
	var sum uint32
	at := int64(spot.Offset)
	for rest := dst; len(rest) > 0; {
		if err := ctx.Err(); err != nil {
			return diskError(op, err)
		}
		piece := rest[:min(len(rest), diskPiece)]
		if _, err := f.ReadAt(piece, at); err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("the file is too short: %w", ErrCorrupt)
			}
			return yr.Wrap(op, yr.DiskFailed, err)
		}
		sum = crc32.Update(sum, castagnoli, piece)
		at += int64(len(piece))
		rest = rest[len(piece):]
	}
	if sum != spot.Sum {
		return yr.Wrap(op, yr.DiskFailed, fmt.Errorf("sum %08x, want %08x: %w", sum, spot.Sum, ErrCorrupt))
	}
	d.mu.Lock()
	d.stats.Read += spot.Length
	d.mu.Unlock()
	return nil
}

// Delete gives a blob's space back, soon. Nobody reads it any more.
func (d *Disk) Delete(spot Spot) {
	d.mu.Lock()
	defer d.mu.Unlock()
	file := d.files[spot.File]
	if file == nil || d.closed {
		return
	}
	place, ok := file.records[spot.Offset]
	if !ok || place.length != spot.Length {
		return
	}
	delete(file.records, spot.Offset)
	d.stats.Blobs--
	d.stats.Live -= place.length
	if len(file.records) == 0 && !file.writing {
		d.discard(file)
		return
	}
	d.waste = append(d.waste, waste{file: file, record: place})
	signal(d.kick)
}

// Stats shows the disk.
func (d *Disk) Stats() DiskStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}

const spillPrefix = "spill-"

func (d *Disk) path(number uint32) string {
	return filepath.Join(d.opt.Dir, fmt.Sprintf("%s%08x", spillPrefix, number))
}

// diskError gives an error of the file system its code.
func diskError(op string, err error) error {
	code := yr.DiskFailed
	switch {
	case errors.Is(err, context.Canceled):
		code = yr.Finalized
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG):
		code = yr.DiskFull
	}
	return yr.Wrap(op, code, err)
}
