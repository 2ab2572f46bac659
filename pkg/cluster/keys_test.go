package cluster

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"yr/pkg/yr"
)

// Whatever people call things, two different names have two different keys, no
// tenant reaches another's or the cluster's own, and a key gives its name back.
func TestKeys(t *testing.T) {
	odd := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "!", ".", "..", "/", "a/b", "names", "%2F", "leader"}))
	rapid.Check(t, func(t *rapid.T) {
		k := keyspace{prefix: rapid.SampledFrom([]string{"", "/p"}).Draw(t, "prefix")}
		type triple struct{ tenant, namespace, name string }
		a := triple{odd.Draw(t, "t1"), odd.Draw(t, "ns1"), odd.Draw(t, "n1")}
		b := triple{odd.Draw(t, "t2"), odd.Draw(t, "ns2"), odd.Draw(t, "n2")}
		key := func(x triple) string { return k.name(yr.Tenant(x.tenant), x.namespace, x.name) }
		tenant := func(x triple) string {
			if x.tenant == "" {
				return string(yr.DefaultTenant)
			}
			return x.tenant
		}
		same := tenant(a) == tenant(b) && a.namespace == b.namespace && a.name == b.name
		require.Equal(t, same, key(a) == key(b), "%+v %+v", a, b)
		require.Equal(t, tenant(a) == tenant(b), strings.HasPrefix(key(a), k.names(yr.Tenant(b.tenant))))
		require.False(t, strings.HasPrefix(key(a), k.prefix+"/yr/"+clusterScope+"/"))
		namespace, name, ok := splitName(strings.TrimPrefix(key(a), k.names(yr.Tenant(a.tenant))))
		require.True(t, ok)
		require.Equal(t, [2]string{a.namespace, a.name}, [2]string{namespace, name})
	})
}

// What an operator may have written with etcdctl is refused, never a panic.
func FuzzValues(f *testing.F) {
	f.Add("names/x", []byte("\x01record"))
	f.Add("a%zz/b", []byte(`{"v":1,"epoch":3}`))
	f.Add("", []byte{})
	f.Fuzz(func(t *testing.T, rest string, value []byte) {
		_, _, _ = splitName(rest)
		if record, err := unseal("k", value); err == nil {
			require.Equal(t, value, seal(record))
		}
		var node NodeRecord
		if err := decode("k", value, &node); err == nil {
			require.Equal(t, formatVersion, node.V)
		}
		var epoch epochRecord
		_ = decode("k", value, &epoch)
	})
}

// What answers at a peer address need not be a master.
func FuzzAnswer(f *testing.F) {
	f.Add("7ff49946ee455ece", []byte(`[{"id":1,"peerURLs":["https://a:1"],"name":"etcd0","clientURLs":["unix://yr"]}]`))
	f.Add("x", []byte(`{}`))
	f.Fuzz(func(t *testing.T, cluster string, raw []byte) {
		a, err := parseAnswer(cluster, raw)
		if err == nil {
			_ = started(a.members, "a:1")
			for i := range a.members {
				_ = addressOf(&a.members[i])
			}
		}
	})
}
