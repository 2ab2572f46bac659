package cluster

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"

	"yr/pkg/yr"
)

// Config keeps what the whole cluster is configured with: few keys, small
// values, written by the leader.
type Config struct {
	kv     KV
	keys   keyspace
	leader *Leader
}

type setting struct {
	V     int             `json:"v"`
	Value json.RawMessage `json:"value"`
}

// Set stores a value as JSON under name.
func (c *Config) Set(ctx context.Context, name string, value any) error {
	if name == "" || len(name) > MaxName {
		return yr.E("config", yr.ParamInvalid, "the name of a setting has 1 to %d bytes, not %d", MaxName, len(name))
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return yr.Wrap("config "+name, yr.ParamInvalid, err)
	}
	sealed, err := json.Marshal(setting{V: formatVersion, Value: raw})
	if err != nil {
		return yr.Wrap("config "+name, yr.ParamInvalid, err)
	}
	if err := checkSize("the setting "+name, sealed); err != nil {
		return err
	}
	_, err = c.leader.Commit(ctx, nil, []Write{{Key: c.keys.config(name), Value: sealed}})
	return err
}

// Get reads a value into the variable that into points to.
func (c *Config) Get(ctx context.Context, name string, into any) (ok bool, err error) {
	entry, ok, err := c.kv.Get(ctx, c.keys.config(name))
	if err != nil || !ok {
		return false, err
	}
	var s setting
	if err := decode(entry.Key, entry.Value, &s); err != nil {
		return false, err
	}
	if err := json.Unmarshal(s.Value, into); err != nil {
		return false, yr.Wrap("config "+name, yr.Internal, err)
	}
	return true, nil
}

// All reads every setting as JSON.
func (c *Config) All(ctx context.Context) (map[string]json.RawMessage, error) {
	all := make(map[string]json.RawMessage)
	after := ""
	for {
		entries, more, err := c.kv.List(ctx, c.keys.configs(), after, MaxPage)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			var s setting
			if err := decode(e.Key, e.Value, &s); err != nil {
				return nil, err
			}
			name, err := url.PathUnescape(strings.TrimPrefix(e.Key, c.keys.configs()))
			if err != nil {
				return nil, yr.Wrap("config", yr.Internal, err)
			}
			all[name] = s.Value
			after = e.Key
		}
		if !more {
			return all, nil
		}
	}
}

// Unset removes a setting; one that is not there is left alone.
func (c *Config) Unset(ctx context.Context, name string) error {
	_, err := c.leader.Commit(ctx, nil, []Write{{Key: c.keys.config(name), Delete: true}})
	return err
}
