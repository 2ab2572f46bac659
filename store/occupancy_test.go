package store

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestOccupancyAgainstModel compares it with one bool for each granule.
func TestOccupancyAgainstModel(t *testing.T) {
	const size = chunkSpan + 16*pageSize
	rapid.Check(t, func(t *rapid.T) {
		o := newOccupancy(size)
		model := make([]bool, size/Granule)
		type blob struct{ offset, length uint64 }
		var blobs []blob
		mark := func(b blob, v bool) {
			for i := b.offset / Granule; i < (b.offset+b.length+Granule-1)/Granule; i++ {
				model[i] = v
			}
		}
		free := func(b blob) bool {
			for i := b.offset / Granule; i < (b.offset+b.length+Granule-1)/Granule; i++ {
				if model[i] {
					return false
				}
			}
			return true
		}
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				b := blob{offset: rapid.Uint64Range(0, size/Granule-1).Draw(t, "granule") * Granule}
				if rapid.Bool().Draw(t, "chunk aligned") {
					b.offset = roundDown(b.offset, chunkSpan)
				}
				b.length = rapid.Uint64Range(1, size-b.offset).Draw(t, "length")
				if rapid.Bool().Draw(t, "small") {
					b.length = min(b.length, 1+b.length%5000)
				}
				want := free(b)
				require.Equal(t, want, o.take(b.offset, b.length))
				if want {
					mark(b, true)
					blobs = append(blobs, b)
				}
			},
			"give": func(t *rapid.T) {
				if len(blobs) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(blobs)-1).Draw(t, "which")
				o.give(blobs[i].offset, blobs[i].length)
				mark(blobs[i], false)
				blobs = append(blobs[:i], blobs[i+1:]...)
			},
			"": func(t *rapid.T) {
				var want uint64
				for _, taken := range model {
					if taken {
						want++
					}
				}
				require.Equal(t, want, o.count())
				pages := make([]bool, size/pageSize) // in a gap
				o.gaps(size, func(offset, length uint64) {
					for p := offset; p < offset+length; p += pageSize {
						pages[p/pageSize] = true
					}
				})
				for p := range pages {
					empty := free(blob{uint64(p) * pageSize, pageSize})
					require.Equal(t, empty, pages[p], "page %d", p)
				}
			},
		})
	})
}

func TestAGigabyteWithOneBlobIsCheap(t *testing.T) {
	o := newOccupancy(gib)
	require.Zero(t, testing.AllocsPerRun(10, func() {
		require.True(t, o.take(0, gib))
		o.give(0, gib)
	}))
}
