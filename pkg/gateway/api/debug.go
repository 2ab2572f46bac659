package api

import (
	"maps"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"

	"yr/pkg/gateway/answer"
	"yr/pkg/yr"
)

// debugCounters is what tests compare before and after: the agent's counters,
// and what the daemon's process holds.
func (a *API) debugCounters(w http.ResponseWriter, _ *http.Request) {
	descriptors, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		answer.Fail(w, yr.Wrap("count descriptors", yr.Internal, err))
		return
	}
	counters := maps.Clone(a.options.Source.Counters())
	if counters == nil {
		counters = make(map[string]uint64)
	}
	store := a.options.Source.Node().Store
	setDefault(counters, "segments", store.Segments)
	setDefault(counters, "objects", store.Objects)
	setDefault(counters, "workers", a.options.Source.Node().Workers)
	counters["goroutines"] = uint64(runtime.NumGoroutine()) //nolint:gosec // a count
	counters["fds"] = uint64(len(descriptors) - 1)          //nolint:gosec // without the one that reads the directory
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	counters["heap_bytes"] = memory.HeapAlloc
	answer.JSON(w, counters)
}

func setDefault(counters map[string]uint64, name string, n int) {
	if _, ok := counters[name]; !ok {
		counters[name] = uint64(max(n, 0))
	}
}

// debugGC collects garbage and gives free memory back to the machine.
func (a *API) debugGC(w http.ResponseWriter, _ *http.Request) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	debug.FreeOSMemory()
	runtime.ReadMemStats(&after)
	answer.JSON(w, map[string]uint64{"heap_bytes_before": before.HeapAlloc, "heap_bytes": after.HeapAlloc})
}
