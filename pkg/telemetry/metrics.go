package telemetry

import (
	"regexp"
	"sort"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"yr/pkg/yr"
)

// Bounds on what one scrape shows, whatever users name.
const (
	maxResourceNames = 64
	maxCounters      = 256
)

// MetricsSource is what the metrics are read from when somebody scrapes them.
type MetricsSource interface {
	Node() yr.NodeView
	Instances() []yr.InstanceView
	Counters() map[string]uint64
}

// NewMetrics makes the registry of a node: openYuanrong's names where they exist,
// yr_agent_<counter> for every counter of the agent, and the Go runtime's and the
// process's own. Nothing is counted twice: all values are read from source.
func NewMetrics(source MetricsSource) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		nodeCollector{source},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return r
}

type nodeCollector struct{ source MetricsSource }

var (
	clusterCPUCapacity    = gauge("yr_cluster_cpu_capacity", "CPU of the cluster in millicores.")
	clusterCPUFree        = gauge("yr_cluster_cpu_allocatable", "CPU not taken, in millicores.")
	clusterMemoryCapacity = gauge("yr_cluster_memory_capacity", "Memory of the cluster in MiB.")
	clusterMemoryFree     = gauge("yr_cluster_memory_allocatable", "Memory not taken, in MiB.")
	clusterInstances      = gauge("yr_cluster_instance_total", "Instances and stateless workers, ended ones not counted.")
	instanceCount         = gauge("yr_instance_count", "Instances and stateless workers by state.", "state")
	queueSize             = gauge("yr_scheduler_queue_size", "Instances that wait for resources.")
	nodeCapacity          = gauge("yr_node_resource_capacity", "What the node offers, by resource.", "resource")
	nodeFree              = gauge("yr_node_resource_allocatable", "What the node has left, by resource.", "resource")
	storeBytes            = gauge("yr_store_bytes", "Shared memory of the node in bytes, by kind.", "kind")
	storeObjects          = gauge("yr_store_objects", "Objects that somebody refers to.")
	storeSegments         = gauge("yr_store_segments", "Segments of shared memory.")
	nodeWorkers           = gauge("yr_node_workers", "Worker processes.")
	invokes               = prometheus.NewDesc("yr_function_invokes_total", "Calls that reached this node.", nil, nil)
)

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe implements prometheus.Collector. Sending nothing makes the collector
// unchecked: the agent's counters are not known beforehand.
func (nodeCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c nodeCollector) Collect(out chan<- prometheus.Metric) {
	set := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	node := c.source.Node()
	set(clusterCPUCapacity, node.Capacity[yr.CPU])
	set(clusterCPUFree, max(0, node.Available[yr.CPU]))
	set(clusterMemoryCapacity, node.Capacity[yr.Memory])
	set(clusterMemoryFree, max(0, node.Available[yr.Memory]))
	for _, name := range firstNames(node.Capacity, maxResourceNames) {
		set(nodeCapacity, node.Capacity[name], name)
		set(nodeFree, max(0, node.Available[name]), name)
	}
	set(nodeWorkers, float64(node.Workers))
	for kind, v := range map[string]uint64{
		"capacity": node.Store.Capacity, "leased": node.Store.Leased, "live": node.Store.Live,
		"warm": node.Store.Warm, "inline": node.Store.Inline,
	} {
		set(storeBytes, float64(v), kind)
	}
	set(storeObjects, float64(node.Store.Objects))
	set(storeSegments, float64(node.Store.Segments))
	c.instances(set)
	c.counters(out)
}

func (c nodeCollector) instances(set func(*prometheus.Desc, float64, ...string)) {
	byState := make(map[string]int)
	for s := yr.StateNew; s <= yr.StatePaused; s++ {
		byState[s.String()] = 0
	}
	byState["other"] = 0 // states of stateless workers
	live := 0
	for _, v := range c.source.Instances() {
		state := v.State
		if _, known := byState[state]; !known {
			state = "other"
		}
		byState[state]++
		if v.PID > 0 {
			live++
		}
	}
	for state, n := range byState {
		set(instanceCount, float64(n), state)
	}
	set(clusterInstances, float64(live))
	set(queueSize, float64(byState[yr.StateNew.String()]+byState[yr.StateScheduling.String()]))
}

var notMetric = regexp.MustCompile(`[^a-zA-Z0-9_]+`)

func (c nodeCollector) counters(out chan<- prometheus.Metric) {
	counters := c.source.Counters()
	seen := make(map[string]bool)
	for _, name := range firstNames(counters, maxCounters) {
		metric := "yr_agent_" + notMetric.ReplaceAllString(name, "_")
		if seen[metric] {
			continue
		}
		seen[metric] = true
		kind := prometheus.GaugeValue // a size of now
		if strings.HasSuffix(metric, "_total") {
			kind = prometheus.CounterValue
		}
		out <- prometheus.MustNewConstMetric(
			prometheus.NewDesc(metric, "A counter of the agent; see GET /yr/v1/counters.", nil, nil),
			kind, float64(counters[name]))
	}
	if calls, ok := counters["calls_total"]; ok {
		out <- prometheus.MustNewConstMetric(invokes, prometheus.CounterValue, float64(calls))
	}
}

// firstNames are the keys of m in order, at most n of them.
func firstNames[V any](m map[string]V, n int) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names[:min(n, len(names))]
}
