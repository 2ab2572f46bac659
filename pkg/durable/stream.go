package durable

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A stream is how a group's state travels: to a voter that is far behind, and into
// a backup.
//
//	"YRDS", version (1 byte), length of the header (4 bytes), header (JSON)
//	per file of the header: its bytes, their CRC-32C (4 bytes)
//
// The files under tables/ are a Pebble checkpoint; those under blobs/, in a backup
// only, are large values by their sums.
const (
	streamMagic   = "YRDS"
	streamVersion = 1

	maxStreamHeader = 16 << 20
	maxStreamFiles  = 1 << 20

	tablesPart = "tables/"
	blobsPart  = "blobs/"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type streamHeader struct {
	Group    uint32       `json:"group"`
	Index    uint64       `json:"index"` // the last log entry that the tables have
	Term     uint64       `json:"term"`
	Revision Revision     `json:"revision"`
	Files    []streamFile `json:"files"`
}

type streamFile struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	path string // where it lies, when sending
}

func headerOf(group uint32, m meta) streamHeader {
	return streamHeader{Group: group, Index: m.index, Term: m.term, Revision: m.revision}
}

// add lists the files of a directory under a part of the stream.
func (h *streamHeader) add(part, dir string, wanted func(name string) bool) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.IsDir() || !wanted(f.Name()) {
			continue
		}
		stat, err := f.Info()
		if err != nil {
			return err
		}
		h.Files = append(h.Files, streamFile{Name: part + f.Name(), Size: stat.Size(), path: filepath.Join(dir, f.Name())})
	}
	return nil
}

// begin encodes what comes before the files.
func (h *streamHeader) begin() ([]byte, error) {
	body, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	b := append([]byte(streamMagic), streamVersion)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body))) //nolint:gosec // far below
	return append(b, body...), nil
}

// size is the length of the whole stream.
func (h *streamHeader) size() (int64, error) {
	begin, err := h.begin()
	n := int64(len(begin))
	for _, f := range h.Files {
		n += f.Size + crc32.Size
	}
	return n, err
}

// writeStream sends the files that the header lists.
func writeStream(w io.Writer, h *streamHeader) error {
	begin, err := h.begin()
	if err != nil {
		return err
	}
	if _, err := w.Write(begin); err != nil {
		return err
	}
	for _, f := range h.Files {
		if err := sendFile(w, f); err != nil {
			return err
		}
	}
	return nil
}

func sendFile(w io.Writer, file streamFile) error {
	f, err := os.Open(file.path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	crc := crc32.New(castagnoli)
	n, err := io.Copy(io.MultiWriter(w, crc), io.LimitReader(f, file.Size))
	if err != nil {
		return err
	}
	if n != file.Size {
		return fmt.Errorf("%s has %d bytes, had %d", file.path, n, file.Size)
	}
	_, err = w.Write(crc.Sum(nil))
	return err
}

// readStream takes a stream apart. create makes the place of a file; the name is
// one part and a plain file name.
func readStream(r io.Reader, group uint32, create func(name string) (io.WriteCloser, error)) (*streamHeader, error) {
	h, err := readStreamHeader(r)
	if err != nil {
		return nil, err
	}
	if h.Group != group {
		return nil, detail(ErrFormat, "a stream holds the state of group %d, this is group %d", h.Group, group)
	}
	for _, f := range h.Files {
		if err := receiveFile(r, f, create); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func readStreamHeader(r io.Reader) (*streamHeader, error) {
	var fixed [len(streamMagic) + 1 + 4]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return nil, detail(ErrFormat, "a stream ends in its first bytes: %v", err)
	}
	if string(fixed[:4]) != streamMagic || fixed[4] != streamVersion {
		return nil, detail(ErrFormat, "a stream begins with %q and version %d; this program reads %q, version %d", fixed[:4], fixed[4], streamMagic, streamVersion)
	}
	n := binary.BigEndian.Uint32(fixed[5:])
	if n > maxStreamHeader {
		return nil, detail(ErrFormat, "a stream has a header of %d bytes", n)
	}
	body, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return nil, err
	}
	var h streamHeader
	if err := json.Unmarshal(body, &h); err != nil {
		return nil, detail(ErrFormat, "the header of a stream: %v", err)
	}
	if len(h.Files) > maxStreamFiles {
		return nil, detail(ErrFormat, "a stream has %d files", len(h.Files))
	}
	for _, f := range h.Files {
		if err := f.valid(); err != nil {
			return nil, err
		}
	}
	return &h, nil
}

func (f streamFile) valid() error {
	part, name := filepath.Split(f.Name)
	if part != tablesPart && part != blobsPart || name == "" || name == "." || name == ".." || strings.ContainsRune(name, 0) || f.Size < 0 {
		return detail(ErrFormat, "a stream has a file %q of %d bytes", f.Name, f.Size)
	}
	return nil
}

func receiveFile(r io.Reader, file streamFile, create func(name string) (io.WriteCloser, error)) (err error) {
	w, err := create(file.Name)
	if err != nil {
		return err
	}
	defer func() {
		if e := w.Close(); err == nil {
			err = e
		}
	}()
	crc := crc32.New(castagnoli)
	n, err := io.Copy(io.MultiWriter(w, crc), io.LimitReader(r, file.Size))
	if err != nil {
		return err
	}
	var want [crc32.Size]byte
	if _, err := io.ReadFull(r, want[:]); err != nil || n != file.Size {
		return detail(ErrFormat, "a stream ends within %s", file.Name)
	}
	if binary.BigEndian.Uint32(want[:]) != crc.Sum32() {
		return detail(ErrCorrupt, "the file %s of a stream has another checksum", file.Name)
	}
	return nil
}

// durableFile is a file that is synced when it is closed.
type durableFile struct{ *os.File }

func (f durableFile) Close() error {
	err := f.Sync()
	if e := f.File.Close(); err == nil {
		err = e
	}
	return err
}

// unpack writes the files of a stream under dir, durably.
func unpack(r io.Reader, group uint32, dir string) (*streamHeader, error) {
	for _, part := range []string{tablesPart, blobsPart} {
		if err := os.MkdirAll(filepath.Join(dir, part), 0o700); err != nil {
			return nil, err
		}
	}
	h, err := readStream(r, group, func(name string) (io.WriteCloser, error) {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		return durableFile{f}, err
	})
	if err != nil {
		return nil, err
	}
	for _, part := range []string{tablesPart, blobsPart, ""} {
		if err := syncDir(filepath.Join(dir, part)); err != nil {
			return nil, err
		}
	}
	return h, nil
}
