package cluster

import (
	"encoding/json"
	"net/url"
	"strings"

	"yr/pkg/yr"
)

// Stated limits. etcd is kept small, so that every node can read all of it.
const (
	// MaxName is the longest name or namespace of an instance, in bytes.
	MaxName = 512
	// MaxRecord is the largest value of any key, in bytes.
	MaxRecord = 64 << 10
	// MaxPage is the most entries that one read of a list returns.
	MaxPage = 1000
)

// Every key is <table prefix>/yr/<tenant>/<kind>/..., each part path-escaped.
// The cluster's own keys stand where a tenant would: "!" is never the result of
// escaping, so no tenant can reach them.
const clusterScope = "!"

// formatVersion is the version of every value. A reader refuses what is newer.
const formatVersion = 1

type keyspace struct{ prefix string }

// Part is a kind of the cluster's own keys, for Cluster.Watch.
type Part string

// The parts that the registry is made of, besides tenants' names.
const (
	PartLeader  Part = "leader"
	PartNodes   Part = "nodes/"
	PartConfig  Part = "config/"
	PartMasters Part = "masters"
)

func (k keyspace) part(p Part) string    { return k.prefix + "/yr/" + clusterScope + "/" + string(p) }
func (k keyspace) leader() string        { return k.part(PartLeader) }
func (k keyspace) nodes() string         { return k.part(PartNodes) }
func (k keyspace) node(n yr.Node) string { return k.nodes() + url.PathEscape(string(n)) }
func (k keyspace) incarnation(n yr.Node) string {
	return k.part("incarnations/") + url.PathEscape(string(n))
}
func (k keyspace) identity(identity string) string {
	return k.part("identities/") + url.PathEscape(identity)
}
func (k keyspace) tag(tag yr.Tag) string     { return k.part("tags/") + tag.String() }
func (k keyspace) configs() string           { return k.part(PartConfig) }
func (k keyspace) config(name string) string { return k.configs() + url.PathEscape(name) }
func (k keyspace) masters() string           { return k.part(PartMasters) }
func (k keyspace) clusterID() string         { return k.part("id") }

func (k keyspace) name(t yr.Tenant, namespace, name string) string {
	return k.names(t) + url.PathEscape(namespace) + "/" + url.PathEscape(name)
}

func (k keyspace) names(t yr.Tenant) string {
	if t == "" {
		t = yr.DefaultTenant
	}
	return k.prefix + "/yr/" + url.PathEscape(string(t)) + "/names/"
}

// splitName is the inverse of name for a key below names(t).
func splitName(rest string) (namespace, name string, ok bool) {
	left, right, found := strings.Cut(rest, "/")
	if !found {
		return "", "", false
	}
	namespace, err := url.PathUnescape(left)
	if err != nil {
		return "", "", false
	}
	name, err = url.PathUnescape(right)
	return namespace, name, err == nil
}

// seal puts the format version before an opaque record.
func seal(record []byte) []byte {
	return append([]byte{formatVersion}, record...)
}

// unseal takes the record out of a sealed value.
func unseal(key string, value []byte) ([]byte, error) {
	if len(value) == 0 {
		return nil, yr.E("registry", yr.Internal, "key %q holds an empty value; remove it", key)
	}
	if value[0] != formatVersion {
		return nil, newerFormat(key, int(value[0]))
	}
	return value[1:], nil
}

// decode reads a JSON value after it has looked at its version.
func decode(key string, value []byte, into any) error {
	var head struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(value, &head); err != nil {
		return &yr.Error{Op: "registry", Code: yr.Internal, Msg: "key " + key + " does not hold JSON", Err: err}
	}
	if head.V != formatVersion {
		return newerFormat(key, head.V)
	}
	if err := json.Unmarshal(value, into); err != nil {
		return &yr.Error{Op: "registry", Code: yr.Internal, Msg: "key " + key, Err: err}
	}
	return nil
}

func newerFormat(key string, got int) error {
	return yr.E("registry", yr.VersionMismatch,
		"key %q has format %d and this yr reads format %d; run the version of yr that wrote the data directory", key, got, formatVersion)
}

func checkSize(what string, value []byte) error {
	if len(value) > MaxRecord {
		return yr.E("registry", yr.ParamInvalid, "%s has %d bytes, at most %d are kept; put large values into the object store", what, len(value), MaxRecord)
	}
	return nil
}
