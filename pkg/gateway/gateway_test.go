package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"yr/pkg/gateway"
	"yr/pkg/gateway/answer"
	"yr/pkg/gateway/api"
	"yr/pkg/gateway/client"
	"yr/pkg/telemetry"
	"yr/pkg/yr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a Source whose views a test chooses.
type node struct {
	view      yr.NodeView
	instances []yr.InstanceView
	calls     []yr.CallView
	objects   []yr.ObjectView
	known     map[string]yr.Explanation
	mu        sync.Mutex // instances, while they change
}

func (n *node) set(instances []yr.InstanceView) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.instances = instances
}

func (n *node) Node() yr.NodeView { return n.view }
func (n *node) Instances() []yr.InstanceView {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.instances
}
func (n *node) Calls() []yr.CallView     { return n.calls }
func (n *node) Objects() []yr.ObjectView { return n.objects }
func (n *node) Counters() map[string]uint64 {
	return map[string]uint64{"calls_total": 3, "sessions": 1}
}
func (n *node) Why(id string) (yr.Explanation, bool) {
	if e, ok := n.known[id]; ok {
		return e, true
	}
	if id == "00000000100000000009" {
		return yr.Explanation{ID: id, Kind: "instance", State: "fatal", Worker: "w0"}, true
	}
	if id != "00000000100000000001" {
		return yr.Explanation{}, false
	}
	return yr.Explanation{ID: id, Kind: "call", State: "queued", Reason: "waits for CPU"}, true
}

const token = "s3cret"

// fixture is a gateway on a Unix socket and a TCP port.
type fixture struct {
	*gateway.Gateway
	source *node
	unix   *client.Client
	tcp    *client.Client
	host   string // of the TCP port
	socket string
	logs   string
}

func open(t *testing.T, change func(*gateway.Options)) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{
		source: &node{view: yr.NodeView{
			ID: "n1", Address: "10.0.0.1", State: "ready", Workers: 2, Master: true,
			Capacity:  map[string]float64{yr.CPU: 4000, yr.Memory: 8192, "ssd": 1},
			Available: map[string]float64{yr.CPU: 3500, yr.Memory: 8192, "ssd": 1},
			Store:     yr.StoreView{Segments: 4, Objects: 9},
		}},
		socket: filepath.Join(dir, "api.sock"), logs: filepath.Join(dir, "logs"),
	}
	require.NoError(t, os.Mkdir(f.logs, 0o700))
	local, err := net.Listen("unix", f.socket)
	require.NoError(t, err)
	port, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f.host = port.Addr().String()
	options := gateway.Options{
		Source: f.source, Unix: local, TCP: []net.Listener{port}, Token: token, TokenFile: "/data/token",
		LogDir: f.logs, Endpoint: api.Endpoint{Socket: "/run/yr.sock", Node: "n1", Version: "1.0", BootID: "b"},
		MasterAddress: f.host, Metrics: telemetry.NewMetrics(f.source),
		Config: func() any { return map[string]string{"values.log_level": "INFO"} },
	}
	if change != nil {
		change(&options)
	}
	f.Gateway = gateway.New(options)
	require.NoError(t, f.Open(t.Context()))
	f.unix, f.tcp = client.Unix(f.socket), client.TCP(f.host, token)
	t.Cleanup(func() {
		f.unix.Close()
		f.tcp.Close()
		http.DefaultClient.CloseIdleConnections()
		require.NoError(t, f.Close(context.Background()))
		require.NoError(t, f.Close(context.Background()), "closing twice does nothing")
	})
	return f
}

func id(n uint64) yr.ID { return yr.Prefix([]byte("000000001")).ID(n) }

// get asks over TCP without a client, to see what scripts see.
func (f *fixture) get(t *testing.T, method, path string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+f.host+path, nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(body)
}

func TestWhoMayAsk(t *testing.T) {
	f := open(t, nil)
	for _, row := range []struct {
		name, method, path, authorization string
		status                            int
	}{
		{"no token", "GET", "/yr/v1/nodes", "", 401},
		{"wrong token", "GET", "/yr/v1/nodes", "Bearer s3cre", 401},
		{"longer token", "GET", "/yr/v1/nodes", "Bearer s3cretx", 401},
		{"another scheme", "GET", "/yr/v1/nodes", "Basic s3cret", 401},
		{"bare token", "GET", "/yr/v1/nodes", "s3cret", 401},
		{"the token", "GET", "/yr/v1/nodes", "Bearer s3cret", 200},
		{"schemes have no case", "GET", "/yr/v1/nodes", "bearer s3cret", 200},
		{"an unknown path tells nothing", "GET", "/nowhere", "", 401},
		{"metrics", "GET", "/metrics", "", 401},
		{"health", "GET", "/global-scheduler/healthy", "", 200},
		{"health of the node", "GET", "/local-scheduler/healthy", "", 200},
		{"health of the agent", "GET", "/function-agent/healthy", "", 200},
		{"liveness", "GET", "/health/live", "", 200},
		{"the endpoint", "GET", "/yr/v1/endpoint", "", 200},
		{"writing to the endpoint", "POST", "/yr/v1/endpoint", "", 401},
		{"a path that only looks public", "GET", "/yr/v1/endpoint/../nodes", "", 401},
		{"unknown path", "GET", "/nowhere", "Bearer s3cret", 404},
		{"wrong method", "DELETE", "/yr/v1/nodes", "Bearer s3cret", 405},
		{"profiles are not on TCP", "GET", "/debug/pprof/", "Bearer s3cret", 404},
	} {
		t.Run(row.name, func(t *testing.T) {
			resp, body := f.get(t, row.method, row.path, "Authorization", row.authorization)
			require.Equal(t, row.status, resp.StatusCode, body)
			if row.status >= 400 {
				var e answer.Error
				require.NoError(t, json.Unmarshal([]byte(body), &e), "errors are JSON: %s", body)
				require.NotEmpty(t, e.Message)
			}
			if row.status == 401 {
				require.Contains(t, body, "1014")
				require.Contains(t, body, "/data/token", "the message says where the token is")
				require.NotContains(t, body, token)
				require.Equal(t, "Bearer", resp.Header.Get("WWW-Authenticate"))
			}
			if row.status == 405 {
				require.Contains(t, resp.Header.Get("Allow"), "GET")
			}
		})
	}
}

func TestInsecure(t *testing.T) {
	f := open(t, func(o *gateway.Options) { o.Token, o.Insecure = "", true })
	resp, _ := f.get(t, "GET", "/yr/v1/nodes")
	require.Equal(t, 200, resp.StatusCode)
}

func TestTCPWithoutATokenIsRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := gateway.New(gateway.Options{Source: &node{}, TCP: []net.Listener{l}})
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(g.Open(t.Context())))
	require.NoError(t, g.Close(t.Context()))
	_, err = l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestTheUnixSocketKnowsItsPeer(t *testing.T) {
	f := open(t, nil)
	nodes, err := f.unix.Nodes(t.Context())
	require.NoError(t, err, "the same user needs no token")
	require.Len(t, nodes, 1)
	require.NoError(t, f.unix.Healthy(t.Context()))
	counters, err := f.unix.DebugCounters(t.Context())
	require.NoError(t, err)
	for name, want := range map[string]uint64{"segments": 4, "objects": 9, "workers": 2, "sessions": 1} {
		require.Equal(t, want, counters[name], name)
	}
	require.Positive(t, counters["goroutines"])
	require.Positive(t, counters["fds"])
	require.NoError(t, f.unix.GC(t.Context()))

	http1 := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", f.socket)
	}}}
	defer http1.CloseIdleConnections()
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/pprof/heap", "/debug/pprof/profile?seconds=1"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://yr"+path, nil)
		require.NoError(t, err)
		resp, err := http1.Do(req)
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode, path)
		_ = resp.Body.Close()
	}
}

func TestLists(t *testing.T) {
	f := open(t, nil)
	ctx := t.Context()
	began := time.Unix(1_700_000_000, 0).UTC()
	for n := uint64(25); n > 0; n-- {
		state := "running"
		if n%5 == 0 {
			state = "scheduling"
		}
		f.source.instances = append(f.source.instances, yr.InstanceView{ID: id(n), Class: "Counter", Job: "job-1", Tenant: "acme", State: state, Since: began})
		f.source.calls = append(f.source.calls, yr.CallView{ID: id(100 + n), Job: "job-1", State: "queued", Since: began.Add(-time.Duration(n) * time.Second)})
		f.source.objects = append(f.source.objects, yr.ObjectView{ID: id(200 + n), Job: "job-2", State: "ready", Size: n})
	}
	f.source.instances = append(f.source.instances, yr.InstanceView{ID: id(99), Worker: id(99).String(), PID: 7, Job: "job-1", State: "running"})

	page, err := f.unix.Instances(ctx, client.Filter{Limit: 10, Offset: 20})
	require.NoError(t, err)
	require.Equal(t, 25, page.Total, "stateless workers are not instances")
	require.Len(t, page.Items, 5)
	require.Equal(t, id(21), page.Items[0].ID, "in the order of their ids")
	page, err = f.unix.Instances(ctx, client.Filter{State: "scheduling", Job: "job-1", Tenant: "acme"})
	require.NoError(t, err)
	require.Equal(t, 5, page.Total)
	page, err = f.unix.Instances(ctx, client.Filter{Tenant: "other"})
	require.NoError(t, err)
	require.Empty(t, page.Items)
	require.NotNil(t, page.Items)
	page, err = f.unix.Workers(ctx, client.Filter{})
	require.NoError(t, err)
	require.Len(t, page.Items, 1)

	calls, err := f.tcp.Calls(ctx, client.Filter{Limit: 1})
	require.NoError(t, err)
	require.Equal(t, id(125), calls.Items[0].ID, "the oldest first")
	objects, err := f.tcp.Objects(ctx, client.Filter{Job: "job-2", Offset: 100})
	require.NoError(t, err)
	require.Equal(t, 25, objects.Total)
	require.Empty(t, objects.Items)

	for _, query := range []string{"limit=0", "limit=10001", "limit=x", "offset=-1", "limit=99999999999999999999"} {
		resp, body := f.get(t, "GET", "/yr/v1/calls?"+query, "Authorization", "Bearer "+token)
		require.Equal(t, 400, resp.StatusCode, query)
		require.Contains(t, body, "is not a number from")
	}
}

func TestWhyEndpointConfigCounters(t *testing.T) {
	f := open(t, nil)
	ctx := t.Context()
	why, err := f.unix.Why(ctx, id(1).String())
	require.NoError(t, err)
	require.Equal(t, "waits for CPU", why.Reason)
	_, err = f.unix.Why(ctx, "no/such id")
	require.Equal(t, yr.ObjectNotFound, yr.CodeOf(err))
	require.ErrorContains(t, err, "no/such id")

	endpoint, err := client.TCP(f.host, "").Endpoint(ctx)
	require.NoError(t, err, "an SDK finds the socket without a token")
	require.Equal(t, "/run/yr.sock", endpoint.Socket)

	raw, err := f.unix.Config(ctx)
	require.NoError(t, err)
	require.JSONEq(t, `{"values.log_level":"INFO"}`, string(raw))
	counters, err := f.unix.Counters(ctx)
	require.NoError(t, err)
	require.Equal(t, uint64(3), counters["calls_total"])

	require.NoError(t, f.unix.SetLogLevel(ctx, "debug"))
	require.Equal(t, "DEBUG", telemetry.Level())
	require.NoError(t, f.unix.SetLogLevel(ctx, "INFO"))
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(f.unix.SetLogLevel(ctx, "loud")))
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(f.unix.SetLogLevel(ctx, "")))

	_, body := f.get(t, "GET", "/metrics", "Authorization", "Bearer "+token)
	require.Contains(t, body, "yr_cluster_cpu_capacity 4000")
}

func TestFunctionMasterViews(t *testing.T) {
	f := open(t, nil)
	ctx := t.Context()
	auth := []string{"Authorization", "Bearer " + token}

	info, err := f.unix.MasterInfo(ctx)
	require.NoError(t, err)
	require.Equal(t, f.host, info.MasterAddress)
	require.Equal(t, "n1", info.ScheduleTopo.Members[0].Name)
	count, err := f.unix.AgentCount(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, count)
	_, body := f.get(t, "GET", "/global-scheduler/queryagentcount", auth...)
	require.Equal(t, "1\n", body, "scripts read a plain number")

	_, body = f.get(t, "POST", "/global-scheduler/resources", append(auth, "Type", "json")...)
	fragment := `"capacity":{"resources":{"CPU":{"scalar":{"value":4000,"limit":4000}},"Memory":{"scalar":{"value":8192,"limit":8192}},"ssd":{"scalar":{"value":1,"limit":1}}}},
		"allocatable":{"resources":{"CPU":{"scalar":{"value":3500,"limit":4000}},"Memory":{"scalar":{"value":8192,"limit":8192}},"ssd":{"scalar":{"value":1,"limit":1}}}},
		"actualUse":{"resources":{"CPU":{"scalar":{"value":500,"limit":4000}},"Memory":{"scalar":{"value":0,"limit":8192}},"ssd":{"scalar":{"value":0,"limit":1}}}},"nodeLabels":{}`
	require.JSONEq(t, `{"resource":{"id":"InnerDomainScheduler","ownerId":"InnerDomainScheduler",`+fragment+
		`,"fragment":{"n1":{"id":"n1","ownerId":"n1",`+fragment+`}}}}`, body)
	resp, _ := f.get(t, "GET", "/global-scheduler/resources", append(auth, "Type", "protobuf")...)
	require.Equal(t, 415, resp.StatusCode)
	resources, err := f.unix.Resources(ctx)
	require.NoError(t, err)
	require.InDelta(t, 4000.0, resources.Resource.Capacity.Resources["CPU"].Scalar.Value, 0)

	since := time.Now().Add(-time.Hour)
	f.source.instances = []yr.InstanceView{
		{ID: id(1), Name: "counter", Class: "m.Counter", Tenant: "acme", Node: "n1", State: "running", Worker: "w1", Since: since},
		{ID: id(2), Class: "m.Counter", Tenant: "acme", Node: "n1", State: "scheduling", Since: since, Reason: "CPU: Not Enough"},
		{ID: id(3), Class: "m.Counter", Tenant: "other", Node: "n1", State: "fatal", Since: since},
	}
	for _, row := range []struct{ path, want string }{
		{"/instance-manager/queryinstances", `"count":3`},
		{"/instance-manager/queryinstances?page=2&page_size=2", `"instanceID":"00000000100000000003"`},
		{"/instance-manager/queryinstances?page=9&page_size=2", `"instances":[]`},
		{"/instance-manager/named-ins", `"count":1`},
		{"/instance-manager/query-tenant-instances?tenant_id=acme", `"count":2`},
		{"/instance-manager/query-tenant-instances?tenant_id=acme&instance_id=00000000100000000002", `"instanceStatus":{"code":1,"name":"scheduling","msg":"CPU: Not Enough"}`},
		{"/instance-manager/query-tenant-instances?tenant_id=acme&node_id=n2", `"count":0`},
		{"/global-scheduler/scheduling_queue", `"count":1`},
		{"/global-scheduler/scheduling_queue", `"waitDurationMs":"36`},
		{"/global-scheduler/queryagents", `"agentID":"n1"`},
	} {
		resp, body := f.get(t, "GET", row.path, auth...)
		require.Equal(t, 200, resp.StatusCode, row.path)
		require.Contains(t, body, row.want, row.path)
	}
	for path, status := range map[string]int{
		"/instance-manager/query-tenant-instances":          400,
		"/instance-manager/queryinstances?page=0":           400,
		"/instance-manager/queryinstances?page_size=100000": 400,
		"/instance-manager/query-debug-instances":           501,
		"/resource-group/rgroup":                            501,
	} {
		resp, body := f.get(t, "GET", path, auth...)
		require.Equal(t, status, resp.StatusCode, "%s: %s", path, body)
	}
}

func TestHealthChecksWhoItIs(t *testing.T) {
	f := open(t, nil)
	pid := fmt.Sprint(os.Getpid())
	for _, row := range []struct {
		node, pid string
		status    int
	}{{"", "", 200}, {"n1", pid, 200}, {"n2", pid, 400}, {"n1", "1", 400}} {
		resp, _ := f.get(t, "GET", "/global-scheduler/healthy", "Node-ID", row.node, "PID", row.pid)
		require.Equal(t, row.status, resp.StatusCode)
	}
}

func TestWhatIsNotOffered(t *testing.T) {
	f := open(t, func(o *gateway.Options) { o.Config, o.Metrics = nil, nil })
	_, err := f.unix.Config(t.Context())
	require.ErrorContains(t, err, "yr config dump")
	for _, path := range []string{"/global-scheduler/node/localschedulingstatus?node_id=n1", "/global-scheduler/evictagent",
		"/yr/v1/nodes/n1/cordon", "/yr/v1/nodes/n1/drain", "/yr/v1/nodes/n1/evict", "/yr/v1/leave"} {
		resp, body := f.get(t, "POST", path, "Authorization", "Bearer "+token)
		require.Equal(t, 501, resp.StatusCode, path)
		require.Contains(t, body, "of its own", path)
	}
	resp, _ := f.get(t, "GET", "/metrics", "Authorization", "Bearer "+token)
	require.Equal(t, 404, resp.StatusCode)
}

func TestRequestsAreBounded(t *testing.T) {
	f := open(t, nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+f.host+"/yr/v1/endpoint", nil)
	require.NoError(t, err)
	req.Header.Set("X", strings.Repeat("x", 64<<10))
	if resp, err := http.DefaultClient.Do(req); err == nil { // or the connection is reset while the header is still being sent
		require.Equal(t, 431, resp.StatusCode)
		require.NoError(t, resp.Body.Close())
	}

	c, err := net.Dial("tcp", f.host)
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	_, err = c.Write([]byte("\x00\x01\x02 garbage\r\n\r\n"))
	require.NoError(t, err)
	text, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Contains(t, string(text), "400 Bad Request")
}

func TestClosingGivesEverythingBack(t *testing.T) {
	before := descriptors(t)
	running := goleak.IgnoreCurrent()
	for range 3 {
		f := open(t, nil)
		_, err := f.unix.Nodes(t.Context())
		require.NoError(t, err)
		_, err = f.tcp.Nodes(t.Context())
		require.NoError(t, err)
		f.unix.Close()
		f.tcp.Close()
		require.NoError(t, f.Close(t.Context()))
	}
	goleak.VerifyNone(t, running)
	require.Equal(t, before, descriptors(t))
}

func TestClientErrors(t *testing.T) {
	c := client.Unix(filepath.Join(t.TempDir(), "none.sock"))
	_, err := c.Nodes(t.Context())
	require.Equal(t, yr.InitConnection, yr.CodeOf(err))
	require.ErrorContains(t, err, "none.sock")
	require.NotContains(t, err.Error(), "http://yr")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	silent := client.TCP(l.Addr().String(), "")
	defer silent.Close()
	_, err = silent.Nodes(ctx)
	require.Equal(t, yr.GetTimeout, yr.CodeOf(err))

	f := open(t, nil)
	_, err = client.TCP(f.host, "wrong").Nodes(t.Context())
	require.Equal(t, yr.Unauthorized, yr.CodeOf(err))
	require.ErrorContains(t, err, "/data/token")
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}
