package cluster

import (
	"context"
	"encoding/json"
	"io"

	"yr/pkg/yr"
)

const (
	tagAlphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	tags        = len(tagAlphabet) * len(tagAlphabet) * len(tagAlphabet)

	// With nine tenths of all tags given out, one of 256 random ones is free but
	// for one registration in 10^11.
	tagTries = 256
)

// NodeTag is a yr.Tag that is text in JSON.
type NodeTag yr.Tag

func (t NodeTag) String() string { return string(t[:]) }

// MarshalText implements encoding.TextMarshaler; no tag is empty.
func (t NodeTag) MarshalText() ([]byte, error) {
	if t == (NodeTag{}) {
		return nil, nil
	}
	return t[:], nil
}

// UnmarshalText is the inverse of MarshalText.
func (t *NodeTag) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*t = NodeTag{}
		return nil
	}
	tag, err := yr.ParseTag(string(b))
	*t = NodeTag(tag)
	return err
}

// An identity has one tag for ever and a tag one identity, because IDs outlive
// nodes. Both directions are kept, each under a key of its own.
type (
	identityRecord struct {
		V   int     `json:"v"`
		Tag NodeTag `json:"tag"`
	}
	tagRecord struct {
		V        int    `json:"v"`
		Identity string `json:"identity"`
	}
)

// grant is what a registration must check and write to get its tag.
type grant struct {
	conditions []Condition
	writes     []Write
}

// tagOf returns the tag of an identity. One that has none is given the wished one,
// or, without a wish, a random one: the grant fails if that is taken.
func (n *Nodes) tagOf(ctx context.Context, identity string, wish yr.Tag) (yr.Tag, grant, error) {
	var known identityRecord
	key := n.keys.identity(identity)
	revision, err := n.load(ctx, key, &known)
	if err != nil || revision != 0 {
		return yr.Tag(known.Tag), grant{}, err
	}
	tag := wish
	if tag == (yr.Tag{}) {
		if tag, err = randomTag(n.random); err != nil {
			return tag, grant{}, yr.Wrap("register", yr.Internal, err)
		}
	}
	owner, err := json.Marshal(tagRecord{V: formatVersion, Identity: identity})
	if err != nil {
		return tag, grant{}, err
	}
	mine, err := json.Marshal(identityRecord{V: formatVersion, Tag: NodeTag(tag)})
	if err != nil {
		return tag, grant{}, err
	}
	return tag, grant{
		conditions: []Condition{{Key: key}, {Key: n.keys.tag(tag)}},
		writes:     []Write{{Key: key, Value: mine}, {Key: n.keys.tag(tag), Value: owner}},
	}, nil
}

func randomTag(random io.Reader) (tag yr.Tag, err error) {
	for i := 0; i < len(tag); {
		var b [1]byte
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return tag, err
		}
		if int(b[0]) >= 256/len(tagAlphabet)*len(tagAlphabet) {
			continue // keeps every character equally likely
		}
		tag[i] = tagAlphabet[int(b[0])%len(tagAlphabet)]
		i++
	}
	return tag, nil
}

// TagOwner returns the identity that a tag was given to, "" if it never was.
func (n *Nodes) TagOwner(ctx context.Context, tag yr.Tag) (identity string, err error) {
	var r tagRecord
	_, err = n.load(ctx, n.keys.tag(tag), &r)
	return r.Identity, err
}
