package wire

import "yr/pkg/yr"

// What nodes say to each other. A link between nodes carries the frames of an SDK
// connection, and a few of its own.

// Source is the data of an Away value: which object, and which node to ask for its bytes.
type Source struct {
	ID    yr.ID
	Size  uint64
	Tag   yr.Tag   // of the node that has the bytes; zero in what an SDK is sent, which asks its agent
	Place yr.Place // in that node's memory; zero if it is not there
}

const sourceLen = yr.IDLen + 8 + yr.TagLen + placeLen

// AwayValue is a value that stands for bytes elsewhere.
func AwayValue(s Source) Value {
	b := make([]byte, 0, sourceLen)
	b = append(b, s.ID[:]...)
	b = le.AppendUint64(b, s.Size)
	b = append(b, s.Tag[:]...)
	return Value{Kind: Away, Data: AppendPlace(b, s.Place)}
}

// Source reads the data of an Away value.
func (v *Value) Source() Source {
	b := v.Data // its length was checked when it was decoded
	return Source{ID: yr.ID(b[:yr.IDLen]), Size: le.Uint64(b[yr.IDLen:]), Tag: yr.Tag(b[yr.IDLen+8 : yr.IDLen+8+yr.TagLen]), Place: decodePlace(b[sourceLen-placeLen:])}
}

// MaybeSource is Source for data that was not decoded as a value.
func (v *Value) MaybeSource() (Source, bool) {
	if len(v.Data) != sourceLen {
		return Source{}, false
	}
	return v.Source(), true
}

// FromWorker is the flag of a RELAY whose inner frame was sent by the hired
// worker, not to it.
const FromWorker = 1 << 0

const relayHead = 8

// AppendRelay appends a RELAY frame: a frame to or from the worker that was hired
// under number. depth is how many calls the task in it is nested in.
//
// hot: once per call that runs on another node.
func AppendRelay(dst []byte, flags uint8, number, depth uint32, inner func(dst []byte) []byte) []byte {
	dst, at := begin(dst, Relay, flags, 0)
	dst = le.AppendUint32(dst, number)
	dst = le.AppendUint32(dst, depth)
	return finish(inner(dst), at)
}

// DecodeRelay reads the body of a RELAY frame; frames is the frame inside.
func DecodeRelay(b []byte) (number, depth uint32, frames []byte, err error) {
	if len(b) < relayHead+HeaderLen {
		return 0, 0, nil, malformed("a relayed frame is cut short: %d bytes", len(b))
	}
	return le.Uint32(b), le.Uint32(b[4:]), b[relayHead:], nil
}

// AppendLent appends a LENT frame: of these objects the peer holds a reference
// now, of those not, because they are gone.
func AppendLent(dst []byte, lent, gone []yr.ID) []byte {
	dst, at := begin(dst, Lent, 0, 0)
	dst = appendIDList(dst, lent)
	return finish(appendIDList(dst, gone), at)
}

func appendIDList(dst []byte, ids []yr.ID) []byte {
	dst = le.AppendUint32(dst, uint32(len(ids))) //nolint:gosec // bounded by MaxBody
	for i := range ids {
		dst = append(dst, ids[i][:]...)
	}
	return dst
}

// DecodeLent reads the body of a LENT frame.
func DecodeLent(b []byte) (lent, gone IDs, err error) {
	if lent, err = DecodeIDs(b); err != nil {
		return nil, nil, err
	}
	gone, err = DecodeIDs(b[4+len(lent):])
	return lent, gone, err
}
