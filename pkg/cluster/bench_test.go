package cluster_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"yr/pkg/cluster"
)

// One write after the other, and a hundred at a time, of an only voter and of three.
func BenchmarkCommit(b *testing.B) {
	for _, voters := range []int{1, 3} {
		b.Run(fmt.Sprint(voters, " voters"), func(b *testing.B) {
			m := newMasters(b, voters)
			var kv cluster.KV
			if voters == 1 {
				kv = m.open(0, m.alone(0))
			} else {
				m.start(0, 1, 2)
				kv = m.live[m.leader(0)]
			}
			commit := func(key string) error {
				_, err := kv.Commit(b.Context(), nil, []cluster.Write{{Key: key, Value: []byte("value")}})
				return err
			}
			b.Run("one", func(b *testing.B) {
				for range b.N {
					require.NoError(b, commit("k"))
				}
			})
			b.Run("hundred", func(b *testing.B) {
				b.SetParallelism(50)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := commit("k"); err != nil {
							b.Error(err)
						}
					}
				})
			})
		})
	}
}

func BenchmarkOpenAlone(b *testing.B) {
	for range b.N {
		m := cluster.NewMember(cluster.MemberOptions{Dir: b.TempDir()})
		require.NoError(b, m.Open(b.Context()))
		b.StopTimer()
		require.NoError(b, m.Close(b.Context()))
		b.StartTimer()
	}
}
