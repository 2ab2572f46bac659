package yr

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
)

// IDLen is the length of every call, object, instance and session identifier.
// It is 20 because openYuanrong's C++ interface promises 20 characters.
const IDLen = 20

// PrefixLen is the part of an ID that names its maker: every ID minted by one
// session starts with that session's prefix, so a prefix is also the caller's
// name and the remaining 11 hexadecimal digits are the caller's sequence number.
const PrefixLen = 9

// seqLen hexadecimal digits are the rest: at 200 000 calls a second a session has
// numbers for years.
const seqLen = IDLen - PrefixLen

// An ID names a call, an object, an instance, a worker or a session. It is
// printable ASCII: a 9-character prefix that is unique per session, then the
// sequence number as 11 lower-case hexadecimal digits.
//
// IDs are made where the thing is made (in an SDK, mostly), never handed out by
// a server, so making one costs no round trip.
type ID [IDLen]byte

// Prefix is the caller part of an ID.
type Prefix [PrefixLen]byte

// TagLen is the part of a prefix that names the node where the session lives, so
// that every ID tells where its thing is at home.
const TagLen = 3

// Tag names a node in IDs: unique in a cluster, for as long as the node's data
// directory lives. The zero Tag names none.
type Tag [TagLen]byte

func (t Tag) String() string { return string(t[:]) }

// ParseTag reads a tag.
func ParseTag(s string) (Tag, error) {
	if len(s) != TagLen {
		return Tag{}, fmt.Errorf("tag %q has %d characters, want %d", s, len(s), TagLen)
	}
	for _, c := range []byte(s) {
		if !alphanumeric(c) {
			return Tag{}, fmt.Errorf("tag %q holds %q; it is made of letters and digits", s, c)
		}
	}
	return Tag([]byte(s)), nil
}

// NewTag returns a random tag.
func NewTag() Tag {
	p := NewPrefix()
	return Tag(p[:TagLen])
}

// Tag is the node part of a prefix.
func (p Prefix) Tag() Tag { return Tag(p[:TagLen]) }

// Tag is the node part of an ID.
func (id ID) Tag() Tag { return Tag(id[:TagLen]) }

// NewPrefix returns a random prefix of the tagged node; of no node if t is zero.
func (t Tag) NewPrefix() Prefix {
	p := NewPrefix()
	if t != (Tag{}) {
		copy(p[:], t[:])
	}
	return p
}

// NewID returns a fresh ID of the tagged node, with its own prefix.
func (t Tag) NewID() ID { return t.NewPrefix().ID(0) }

func alphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

const prefixAlphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// NewPrefix returns a random prefix: 53 bits, with which a million sessions
// collide with a probability below one in ten thousand. A node refuses a prefix
// that a live session has.
func NewPrefix() Prefix {
	var p Prefix
	var raw [PrefixLen]byte
	_, _ = rand.Read(raw[:]) // crypto/rand.Read never fails on Linux
	for i, b := range raw {
		p[i] = prefixAlphabet[int(b)%len(prefixAlphabet)]
	}
	return p
}

// ParsePrefix reads a prefix that a peer chose. It must be printable and of no
// meaning to a file system, since IDs name files.
func ParsePrefix(s string) (Prefix, error) {
	if len(s) != PrefixLen {
		return Prefix{}, fmt.Errorf("prefix %q has %d characters, want %d", s, len(s), PrefixLen)
	}
	for _, c := range []byte(s) {
		if !alphanumeric(c) && c != '-' && c != '_' {
			return Prefix{}, fmt.Errorf("prefix %q holds %q; it is made of letters, digits, - and _", s, c)
		}
	}
	return Prefix([]byte(s)), nil
}

// ID returns the ID with this prefix and sequence number.
func (p Prefix) ID(seq uint64) ID {
	var id ID
	copy(id[:], p[:])
	putHex(id[PrefixLen:], seq)
	return id
}

func (p Prefix) String() string { return string(p[:]) }

// NewID returns a fresh ID with its own prefix, for things that are not made in
// sequence (sessions, workers).
func NewID() ID { return NewPrefix().ID(0) }

// ParseID reads the printable form.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != IDLen {
		return id, fmt.Errorf("id %q has %d characters, want %d", s, len(s), IDLen)
	}
	copy(id[:], s)
	if _, err := id.seq(); err != nil {
		return ID{}, fmt.Errorf("id %q does not end in %d hexadecimal digits", s, seqLen)
	}
	return id, nil
}

func (id ID) String() string { return string(id[:]) }

// IsZero reports whether id is the zero ID, which names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// Prefix returns the caller part.
func (id ID) Prefix() Prefix { return Prefix(id[:PrefixLen]) }

// Seq returns the caller's sequence number, 0 if the ID is malformed.
func (id ID) Seq() uint64 {
	n, _ := id.seq()
	return n
}

// Return names the k-th result of the call id. Results of one call are
// consecutive: the caller reserves as many sequence numbers as the call returns.
func (id ID) Return(k int) ID {
	if k == 0 {
		return id
	}
	putHex(id[PrefixLen:], id.Seq()+uint64(k)) //nolint:gosec // a call returns at most 100 objects
	return id
}

// MarshalText and UnmarshalText make IDs readable in JSON.
func (id ID) MarshalText() ([]byte, error) { return id[:], nil }

// UnmarshalText is the inverse of MarshalText.
func (id *ID) UnmarshalText(b []byte) error {
	v, err := ParseID(string(b))
	*id = v
	return err
}

var errNotHex = errors.New("not hexadecimal")

func (id ID) seq() (uint64, error) {
	var n uint64
	for _, c := range id[PrefixLen:] {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | uint64(c-'0')
		case c >= 'a' && c <= 'f':
			n = n<<4 | uint64(c-'a'+10)
		default:
			return 0, errNotHex
		}
	}
	return n, nil
}

func putHex(dst []byte, n uint64) {
	const digits = "0123456789abcdef"
	for i := seqLen - 1; i >= 0; i-- {
		dst[i] = digits[n&15]
		n >>= 4
	}
}

// Tenant, Job and Node are names, not IDs: people choose or read them.
type (
	// Tenant is whose a thing is. The empty tenant is "default".
	Tenant string
	// Job is the lifetime tree of a driver: "job-" and 8 hexadecimal digits.
	Job string
	// Node is a machine's name in the cluster, "<hostname>-<pid>" unless configured.
	Node string
)

// DefaultTenant is the tenant of everyone who names none.
const DefaultTenant Tenant = "default"

// NewJob returns a fresh job name.
func NewJob() Job {
	var raw [4]byte
	_, _ = rand.Read(raw[:])
	n := uint64(raw[0])<<24 | uint64(raw[1])<<16 | uint64(raw[2])<<8 | uint64(raw[3])
	s := strconv.FormatUint(n, 16)
	return Job("job-" + "00000000"[len(s):] + s)
}
