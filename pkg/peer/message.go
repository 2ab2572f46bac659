package peer

import (
	"encoding/binary"
	"io"
	"unicode"
	"unicode/utf8"

	"yr/pkg/yr"
)

// The four messages of the handshake: hello and proof from the node that dials,
// challenge and welcome from the one that accepts. Each is
//
//	u16 length | u8 kind | fields, each u8 tag | u16 length | value
//
// little-endian. A field that is not known is skipped, so that later versions
// can say more.

type kind uint8

const (
	kindHello     kind = 1
	kindChallenge kind = 2
	kindProof     kind = 3
	kindWelcome   kind = 4 // also every refusal, at any time
)

// maxMessage bounds a message that nobody has authenticated yet.
const maxMessage = 2048

const messageHeader = 3

const (
	nonceLen = 32
	macLen   = 32
	bootLen  = 16
)

type tag uint8

const (
	tagOldest      tag = 1
	tagNewest      tag = 2
	tagSoftware    tag = 3
	tagNode        tag = 4
	tagAddress     tag = 5
	tagIncarnation tag = 6
	tagGeneration  tag = 7
	tagBoot        tag = 8
	tagProtocol    tag = 9
	tagExpect      tag = 10
	tagNonce       tag = 11
	tagMAC         tag = 12 // always the last field
	tagReason      tag = 13
	tagText        tag = 14
	tagReceived    tag = 15
)

// message is any of the four; each kind uses some of the fields.
type message struct {
	kind kind

	oldest, newest uint64 // protocol versions; in a challenge newest is the one chosen
	software       string // version of the build, for people
	node           yr.Node
	address        string // where others reach the node
	incarnation    uint64
	generation     uint64 // of the link, within the incarnation
	boot           [bootLen]byte
	protocol       string
	expect         yr.Node // who should answer; empty: anybody
	nonce          [nonceLen]byte
	mac            [macLen]byte
	reason         reason
	text           string
	received       uint64 // bytes of the link that arrived
}

var le = binary.LittleEndian

// encode returns the message with its header. MAC is left out: seal adds it.
func (m *message) encode() []byte {
	b := make([]byte, messageHeader, 256)
	b[2] = byte(m.kind)
	number := func(t tag, v uint64) {
		if v != 0 {
			b = append(b, byte(t), 8, 0)
			b = le.AppendUint64(b, v)
		}
	}
	octets := func(t tag, v []byte) {
		b = append(b, byte(t))
		b = le.AppendUint16(b, uint16(len(v))) //nolint:gosec // texts are cut, the rest is short
		b = append(b, v...)
	}
	text := func(t tag, s string) {
		if s != "" {
			octets(t, []byte(s))
		}
	}
	number(tagOldest, m.oldest)
	number(tagNewest, m.newest)
	text(tagSoftware, m.software)
	text(tagNode, string(m.node))
	text(tagAddress, m.address)
	number(tagIncarnation, m.incarnation)
	number(tagGeneration, m.generation)
	if m.boot != [bootLen]byte{} {
		octets(tagBoot, m.boot[:])
	}
	text(tagProtocol, m.protocol)
	text(tagExpect, string(m.expect))
	if m.nonce != [nonceLen]byte{} {
		octets(tagNonce, m.nonce[:])
	}
	number(tagReason, uint64(m.reason))
	text(tagText, m.text[:min(len(m.text), maxText)])
	number(tagReceived, m.received)
	le.PutUint16(b, uint16(len(b)-messageHeader)) //nolint:gosec // the limits of its parts keep it below maxMessage
	return b
}

// sealLen is what a MAC takes at the end of a message.
const sealLen = 3 + macLen

// sealed appends the MAC field to an encoded message.
func sealed(b []byte, mac [macLen]byte) []byte {
	b = append(b, byte(tagMAC), macLen, 0)
	b = append(b, mac[:]...)
	le.PutUint16(b, uint16(len(b)-messageHeader)) //nolint:gosec // below maxMessage
	return b
}

// unsealed is an encoded message as it was before sealed.
func unsealed(b []byte) []byte {
	if len(b) < messageHeader+sealLen {
		return b
	}
	b = append([]byte(nil), b[:len(b)-sealLen]...)
	le.PutUint16(b, uint16(len(b)-messageHeader)) //nolint:gosec // below maxMessage
	return b
}

// The longest texts in a message.
const (
	maxName     = 255
	maxProtocol = 32
	maxSoftware = 64
	maxText     = 1024
)

// decode reads the fields of a message.
func decode(k kind, b []byte) (*message, error) {
	m := &message{kind: k}
	for len(b) > 0 {
		if len(b) < 3 {
			return nil, malformed("a handshake message ends within a field")
		}
		t, n := tag(b[0]), int(le.Uint16(b[1:]))
		if len(b)-3 < n {
			return nil, malformed("a handshake field of %d bytes stands in a message that has %d left", n, len(b)-3)
		}
		v := b[3 : 3+n]
		b = b[3+n:]
		if err := m.set(t, v); err != nil {
			return nil, err
		}
		if t == tagMAC && len(b) > 0 {
			return nil, malformed("a handshake message goes on after its proof")
		}
	}
	return m, nil
}

// set stores one field.
func (m *message) set(t tag, v []byte) error {
	switch t {
	case tagOldest, tagNewest, tagIncarnation, tagGeneration, tagReason, tagReceived:
		if len(v) != 8 {
			return malformed("handshake field %d has %d bytes, want 8", t, len(v))
		}
		m.setNumber(t, le.Uint64(v))
		return nil
	case tagBoot:
		return fixed(m.boot[:], t, v)
	case tagNonce:
		return fixed(m.nonce[:], t, v)
	case tagMAC:
		return fixed(m.mac[:], t, v)
	case tagSoftware:
		return name(&m.software, t, v, maxSoftware)
	case tagNode:
		return name((*string)(&m.node), t, v, maxName)
	case tagAddress:
		return name(&m.address, t, v, maxName)
	case tagProtocol:
		return name(&m.protocol, t, v, maxProtocol)
	case tagExpect:
		return name((*string)(&m.expect), t, v, maxName)
	case tagText:
		return name(&m.text, t, v, maxText)
	}
	return nil
}

func (m *message) setNumber(t tag, v uint64) {
	switch t {
	case tagOldest:
		m.oldest = v
	case tagNewest:
		m.newest = v
	case tagIncarnation:
		m.incarnation = v
	case tagGeneration:
		m.generation = v
	case tagReason:
		m.reason = reason(min(v, 255))
	case tagReceived:
		m.received = v
	}
}

func fixed(dst []byte, t tag, v []byte) error {
	if len(v) != len(dst) {
		return malformed("handshake field %d has %d bytes, want %d", t, len(v), len(dst))
	}
	copy(dst, v)
	return nil
}

// name stores a text that will stand in logs: short and printable.
func name(dst *string, t tag, v []byte, most int) error {
	if len(v) > most || !utf8.Valid(v) {
		return malformed("handshake field %d is no text of at most %d bytes", t, most)
	}
	for _, r := range string(v) {
		if !unicode.IsPrint(r) {
			return malformed("handshake field %d holds %q", t, r)
		}
	}
	*dst = string(v)
	return nil
}

// read reads one message, whole, and not a byte more: what follows the handshake
// belongs to somebody else. raw is the message as it stood on the wire.
func read(r io.Reader, want kind) (m *message, raw []byte, err error) {
	var h [messageHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, nil, err
	}
	n, k := int(le.Uint16(h[:])), kind(h[2])
	if n > maxMessage {
		return nil, nil, malformed("a handshake message of %d bytes is over the limit of %d", n, maxMessage)
	}
	if k != want && k != kindWelcome {
		return nil, nil, malformed("handshake message %d came where %d was expected", k, want)
	}
	raw = make([]byte, messageHeader+n)
	copy(raw, h[:])
	if _, err := io.ReadFull(r, raw[messageHeader:]); err != nil {
		return nil, nil, err
	}
	m, err = decode(k, raw[messageHeader:])
	return m, raw, err
}
