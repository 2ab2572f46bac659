package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/gateway"
	"yr/pkg/gateway/api"
	"yr/pkg/gateway/client"
	"yr/pkg/yr"
)

// members is a cluster in one process: what the leader would know.
type members struct {
	mu      sync.Mutex
	nodes   []yr.NodeView
	err     error
	did     []string
	drained chan error // what Drain waits for
	backup  func(io.Writer) error
}

func (m *members) Nodes(context.Context) ([]yr.NodeView, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.nodes), m.err
}

func (m *members) note(words ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.did = append(m.did, strings.Join(words, " "))
	return nil
}

func (m *members) SetCordoned(_ context.Context, node yr.Node, cordoned bool) error {
	if node == "n9" {
		return yr.E("cordon", yr.ParamInvalid, "there is no node %q", node)
	}
	return m.note(map[bool]string{true: "cordon", false: "uncordon"}[cordoned], string(node))
}

func (m *members) Drain(ctx context.Context, node yr.Node, timeout time.Duration) error {
	_ = m.note("drain", string(node), timeout.String())
	select {
	case err := <-m.drained:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *members) Evict(_ context.Context, node yr.Node) error { return m.note("evict", string(node)) }
func (m *members) Leave(context.Context) error                 { return m.note("leave") }
func (m *members) RemoveMaster(_ context.Context, node yr.Node) error {
	return m.note("remove", string(node))
}
func (m *members) Backup(_ context.Context, w io.Writer) error { return m.backup(w) }
func (m *members) Masters(context.Context) ([]api.MasterView, error) {
	return []api.MasterView{{Node: "n1", Leader: true, State: "ready"}}, nil
}

func (m *members) done() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.did)
}

// several opens gateways n1, n2, n3, each with what is its own; n1 is the leader.
func several(t *testing.T) ([]*fixture, *members) {
	t.Helper()
	m := &members{drained: make(chan error, 1)}
	nodes := make([]*fixture, 3)
	for i := range nodes {
		name := yr.Node("n" + string(rune('1'+i)))
		nodes[i] = open(t, func(o *gateway.Options) {
			o.Cluster, o.WorkerDir = m, filepath.Join(o.LogDir, "workers")
			require.NoError(t, os.Mkdir(o.WorkerDir, 0o700))
			source := o.Source.(*node)
			source.view.ID, source.view.Master, source.view.Leader = name, i == 0, i == 0
			source.view.Tag = strings.Repeat("abc"[i:i+1], yr.TagLen)
			if i > 0 {
				o.MasterAddress = ""
			}
		})
		view := nodes[i].source.view
		view.Address = nodes[i].host
		m.nodes = append(m.nodes, view)
	}
	return nodes, m
}

// born is an ID of node i, counted from 0.
func born(i int, n uint64) yr.ID {
	return yr.Prefix([]byte(strings.Repeat("abc"[i:i+1], yr.PrefixLen))).ID(n)
}

func TestListsShowTheWholeClusterFromAnyNode(t *testing.T) {
	nodes, _ := several(t)
	ctx := t.Context()
	began := time.Unix(1_700_000_000, 0).UTC()
	for i, n := range nodes {
		for k := range uint64(10) {
			n.source.instances = append(n.source.instances, yr.InstanceView{ID: born(i, k), Class: "C", PID: 1, State: "running", Tenant: "acme"})
			n.source.calls = append(n.source.calls, yr.CallView{ID: born(i, 100+k), Since: began.Add(time.Duration(int(k)*3+i) * time.Second)})
			n.source.objects = append(n.source.objects, yr.ObjectView{ID: born(i, 200+k), Job: yr.Job("job-" + n.source.view.ID)})
		}
	}
	nodes[0].source.instances = append(nodes[0].source.instances, yr.InstanceView{ID: born(0, 99), PID: 1, Worker: "w", Node: "n2"})
	for _, n := range nodes {
		page, err := n.unix.Instances(ctx, client.Filter{Limit: 12, Offset: 5})
		require.NoError(t, err)
		require.Equal(t, 30, page.Total)
		require.Empty(t, page.Unreachable)
		require.Len(t, page.Items, 12)
		require.Equal(t, born(0, 5), page.Items[0].ID)
		require.Equal(t, yr.Node("n1"), page.Items[0].Node)
		require.Equal(t, born(1, 6), page.Items[11].ID, "one order for all")
		require.Equal(t, yr.Node("n2"), page.Items[11].Node)

		calls, err := n.tcp.Calls(ctx, client.Filter{Limit: 4})
		require.NoError(t, err)
		require.Equal(t, 30, calls.Total)
		require.Equal(t, []yr.Node{"n1", "n2", "n3", "n1"}, []yr.Node{calls.Items[0].Node, calls.Items[1].Node, calls.Items[2].Node, calls.Items[3].Node}, "the oldest first")

		objects, err := n.unix.Objects(ctx, client.Filter{Job: "job-n3"})
		require.NoError(t, err)
		require.Equal(t, 10, objects.Total, "filters travel")
		workers, err := n.unix.Workers(ctx, client.Filter{Node: "n2"})
		require.NoError(t, err)
		require.Equal(t, 11, workers.Total, "one of them is listed by its home")
		require.Equal(t, yr.Node("n2"), workers.Items[0].Node)

		count, err := n.unix.AgentCount(ctx)
		require.NoError(t, err)
		require.Equal(t, 3, count)
		_, body := n.get(t, "GET", "/instance-manager/queryinstances?page_size=1", "Authorization", "Bearer "+token)
		require.Contains(t, body, `"count":31`)
		_, body = n.get(t, "GET", "/instance-manager/query-tenant-instances?tenant_id=acme&node_id=n3", "Authorization", "Bearer "+token)
		require.Contains(t, body, `"count":10`)
	}
	_, body := nodes[0].get(t, "GET", "/yr/v1/instances?local=1", "Authorization", "Bearer "+token)
	require.Contains(t, body, `"total":10`)
	_, err := nodes[0].unix.Instances(ctx, client.Filter{Node: "n9"})
	require.ErrorContains(t, err, `no node "n9"`)
	r, err := nodes[2].unix.Resources(ctx)
	require.NoError(t, err)
	require.InDelta(t, 12000.0, r.Resource.Capacity.Resources[yr.CPU].Scalar.Value, 0)
}

func TestANodeKnowsItselfBest(t *testing.T) {
	nodes, m := several(t)
	for i := range m.nodes {
		m.nodes[i].Available, m.nodes[i].Reason = nil, "it has not reported to this leader yet"
	}
	seen, err := nodes[1].unix.Nodes(t.Context())
	require.NoError(t, err)
	require.Empty(t, seen[1].Reason)
	require.InDelta(t, 3500.0, seen[1].Available[yr.CPU], 0)
	require.NotEmpty(t, seen[0].Reason, "of the others it knows what the leader knows")
	require.Nil(t, seen[0].Available)
}

func TestNodesThatDoNotAnswerAreNamed(t *testing.T) {
	t.Parallel()
	nodes, m := several(t)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	hangs, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, and never says a word
	require.NoError(t, err)
	t.Cleanup(func() { _ = hangs.Close() })
	m.nodes = append(m.nodes,
		yr.NodeView{ID: "gone", Address: dead.Addr().String(), State: "ready", Tag: "ggg"},
		yr.NodeView{ID: "hangs", Address: hangs.Addr().String(), State: "ready", Tag: "hhh"},
		yr.NodeView{ID: "lost", Address: dead.Addr().String(), State: "lost", Reason: "it was not heard of for 5 s"})
	require.NoError(t, dead.Close())
	for i, n := range nodes {
		n.source.instances = []yr.InstanceView{{ID: born(i, 1), Class: "C"}}
	}
	at := time.Now()
	page, err := nodes[1].unix.Instances(t.Context(), client.Filter{})
	require.NoError(t, err)
	require.Less(t, time.Since(at), 4*time.Second, "a node that hangs delays for its own time only")
	require.Equal(t, 3, page.Total)
	require.Len(t, page.Unreachable, 2, "the lost one has nothing that could be missing")
	require.Equal(t, yr.Node("gone"), page.Unreachable[0].Node)
	require.Equal(t, yr.Node("hangs"), page.Unreachable[1].Node)
	require.Contains(t, page.Unreachable[1].Reason, "in time")
	require.Equal(t, hangs.Addr().String(), page.Unreachable[1].Address)

	_, err = nodes[0].unix.Why(t.Context(), "nobody")
	require.Equal(t, yr.ObjectNotFound, yr.CodeOf(err))
	require.ErrorContains(t, err, "not every node answered: gone (")

	why, err := nodes[0].unix.Why(t.Context(), "lost")
	require.NoError(t, err)
	require.Equal(t, yr.Explanation{ID: "lost", Kind: "node", State: "lost", Reason: "it was not heard of for 5 s"}, why)

	m.mu.Lock()
	m.nodes = m.nodes[:3]
	m.mu.Unlock()
	_, err = nodes[0].unix.Instances(t.Context(), client.Filter{})
	require.NoError(t, err)
	m.mu.Lock()
	m.err = yr.E("ask the leader", yr.Communication, "there is none")
	m.mu.Unlock()
	page, err = nodes[0].unix.Instances(t.Context(), client.Filter{})
	require.NoError(t, err, "without a leader the nodes known last are asked")
	require.Equal(t, 3, page.Total)
	require.Contains(t, page.Unreachable[0].Reason, "there is none")
	_, err = nodes[0].unix.Nodes(t.Context())
	require.Equal(t, yr.Communication, yr.CodeOf(err))
}

func TestWhyAsksTheNodeThatKnows(t *testing.T) {
	nodes, m := several(t)
	m.nodes[2].State, m.nodes[2].Reason = "cordoned", "it gets no new work"
	for i, n := range nodes {
		n.source.known = map[string]yr.Explanation{
			born(i, 7).String():                {Kind: "call", State: "queued", Reason: "waits on " + string(n.source.view.ID)},
			"name-" + string(n.source.view.ID): {Kind: "instance", State: "running"},
			string(n.source.view.ID):           {Kind: "node", State: "ready", Reason: "it serves"},
		}
	}
	for _, n := range nodes {
		for i, home := range []yr.Node{"n1", "n2", "n3"} {
			for _, id := range []string{born(i, 7).String(), "name-" + string(home), string(home)} {
				e, err := n.unix.Why(t.Context(), id)
				require.NoError(t, err, id)
				require.Equal(t, home, e.Node, id)
			}
		}
		e, err := n.unix.Why(t.Context(), "n3")
		require.NoError(t, err)
		require.Equal(t, yr.Explanation{ID: "n3", Kind: "node", Node: "n3", State: "cordoned", Reason: "it gets no new work", Trail: []string{"it serves"}}, e)
		_, err = n.unix.Why(t.Context(), "nobody")
		require.Equal(t, yr.ObjectNotFound, yr.CodeOf(err))
		require.NotContains(t, err.Error(), "not every node")
	}
}

func TestLogsOfOtherNodes(t *testing.T) {
	nodes, m := several(t)
	ctx := t.Context()
	// An instance whose home is n2 and whose worker is on n3.
	worker := born(2, 5)
	nodes[1].source.set([]yr.InstanceView{{ID: born(1, 1), Name: "counter", Class: "C", Worker: worker.String(), PID: 5, Node: "n3"}})
	lives := filepath.Join(nodes[2].logs, "workers", worker.String()+".json")
	require.NoError(t, os.WriteFile(lives, nil, 0o600), "the node where it runs does not list it")
	file := filepath.Join(nodes[2].logs, "runtime-"+worker.String()+".out")
	require.NoError(t, os.WriteFile(file, []byte("one\ntwo\n"), 0o600))
	for _, n := range nodes {
		for _, id := range []string{born(1, 1).String(), "counter", worker.String()} {
			var out bytes.Buffer
			require.NoError(t, n.unix.Logs(ctx, id, client.LogOptions{Tail: 1}, &out), id)
			require.Equal(t, "two\n", out.String(), id)
		}
		require.Equal(t, yr.ObjectNotFound, yr.CodeOf(n.unix.Logs(ctx, "nobody", client.LogOptions{Tail: -1}, io.Discard)))
	}

	follow := func(n *fixture) (*io.PipeReader, chan error) {
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() {
			err := n.tcp.Logs(ctx, "counter", client.LogOptions{Follow: true, Tail: -1}, w)
			_ = w.CloseWithError(err)
			done <- err
		}()
		text := make([]byte, len("one\ntwo\n"))
		_, err := io.ReadFull(r, text)
		require.NoError(t, err)
		return r, done
	}
	r, done := follow(nodes[0])
	grown, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = grown.WriteString("three\n")
	require.NoError(t, errors.Join(err, grown.Close()))
	text := make([]byte, len("three\n"))
	_, err = io.ReadFull(r, text)
	require.NoError(t, err)
	require.Equal(t, "three\n", string(text), "as it grows")
	require.NoError(t, os.Remove(lives))
	_, _ = io.Copy(io.Discard, r)
	require.NoError(t, <-done, "it ends when the worker does")

	require.NoError(t, os.WriteFile(lives, nil, 0o600))
	r, done = follow(nodes[0])
	require.NoError(t, nodes[2].Close(ctx))
	_, _ = io.Copy(io.Discard, r)
	<-done // what was followed has ended, one way or the other

	m.mu.Lock()
	m.nodes = m.nodes[:2]
	m.mu.Unlock()
	require.ErrorContains(t, nodes[0].unix.Logs(ctx, "counter", client.LogOptions{}, io.Discard), "ran on node n3, which has left")
}

func TestDrainTellsWhatStillRuns(t *testing.T) {
	t.Parallel()
	nodes, m := several(t)
	nodes[1].source.set([]yr.InstanceView{{ID: born(1, 1), Class: "C", PID: 5}, {ID: born(1, 2), Class: "C"}})
	nodes[2].source.set([]yr.InstanceView{{ID: born(2, 1), Class: "C", PID: 5, Node: "n2"}, {ID: born(2, 2), Class: "C", PID: 5}})
	nodes[1].source.calls = []yr.CallView{{ID: born(1, 3)}, {ID: born(1, 4)}}
	for _, n := range []*fixture{nodes[0], nodes[1]} {
		var seen []api.Progress
		err := n.unix.Drain(t.Context(), "n2", time.Minute, func(p api.Progress) {
			if seen = append(seen, p); len(seen) == 1 {
				m.drained <- nil
			}
		})
		require.NoError(t, err)
		require.Equal(t, api.Progress{Node: "n2", Instances: 2, Calls: 2}, seen[0])
	}
	err := nodes[0].unix.Drain(t.Context(), "n2", time.Minute, func(api.Progress) {
		select {
		case m.drained <- yr.E("drain", yr.DeadlineExceeded, "n2 still runs 1 instance"):
		default:
		}
	})
	require.Equal(t, yr.DeadlineExceeded, yr.CodeOf(err), "an error after the first line")
	require.ErrorContains(t, err, "n2 still runs")

	m.drained <- yr.E("drain", yr.DeadlineExceeded, "something runs")
	require.NoError(t, nodes[0].unix.Evict(t.Context(), "n3", time.Second, func(api.Progress) {}))
	require.NoError(t, nodes[0].unix.Evict(t.Context(), "n3", 0, func(api.Progress) {}))
	require.Equal(t, []string{"drain n2 1m0s", "drain n2 1m0s", "drain n2 1m0s", "drain n3 1s", "evict n3", "evict n3"}, m.done())

	ctx, cancel := context.WithCancel(t.Context())
	err = nodes[0].unix.Drain(ctx, "n2", time.Minute, func(api.Progress) { cancel() })
	require.Equal(t, yr.Interrupted, yr.CodeOf(err))

	err = nodes[0].unix.Drain(t.Context(), "n9", time.Minute, func(api.Progress) {})
	require.ErrorContains(t, err, `no node "n9"`)
	for _, q := range []string{"timeout=x", "timeout=-1s", "timeout=25h"} {
		resp, body := nodes[0].get(t, "POST", "/yr/v1/nodes/n2/drain?"+q, "Authorization", "Bearer "+token)
		require.Equal(t, 400, resp.StatusCode, body)
	}
}

func TestCordonAndTheOldRoutes(t *testing.T) {
	nodes, m := several(t)
	n, auth := nodes[1], []string{"Authorization", "Bearer " + token}
	require.NoError(t, n.unix.SetCordoned(t.Context(), "n3", true))
	require.NoError(t, n.unix.SetCordoned(t.Context(), "n3", false))
	require.ErrorContains(t, n.unix.SetCordoned(t.Context(), "n9", true), `no node "n9"`)

	const status = "/global-scheduler/node/localschedulingstatus"
	_, body := n.get(t, "POST", status+"?node_id=n1", auth...)
	require.JSONEq(t, `{"status":"evicting","message":"success"}`, body)
	_, body = n.get(t, "DELETE", status+"?node_id=n1", auth...)
	require.JSONEq(t, `{"status":"normal","message":"success"}`, body)
	for _, path := range []string{status, status + "?node_id=n9"} {
		resp, _ := n.get(t, "POST", path, auth...)
		require.Equal(t, 400, resp.StatusCode)
	}
	post := func(body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+n.host+"/global-scheduler/evictagent", strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(text)
	}
	m.drained <- nil
	code, text := post(`{"agentID":"n2"}`)
	require.Equal(t, 200, code, text)
	code, _ = post(`{"agentID":"n2","timeoutSec":0}`)
	require.Equal(t, 200, code)
	for _, wrong := range []string{``, `{}`, `{"agentID":"n2","timeoutSec":6001}`, `{"agentID":7}`} {
		code, text = post(wrong)
		require.Equal(t, 400, code, text)
	}
	require.Equal(t, []string{"cordon n3", "uncordon n3", "cordon n1", "uncordon n1", "drain n2 30s", "evict n2"}, m.done())
}

func TestMastersAndBackupsAreTheLeadersBusiness(t *testing.T) {
	nodes, m := several(t)
	n, ctx := nodes[2], t.Context()
	page, err := n.unix.Masters(ctx)
	require.NoError(t, err)
	require.Equal(t, []api.MasterView{{Node: "n1", Leader: true, State: "ready"}}, page.Items)
	require.NoError(t, n.unix.RemoveMaster(ctx, "n2"))
	require.NoError(t, n.unix.Leave(ctx))
	require.Equal(t, []string{"remove n2", "leave"}, m.done())

	whole := bytes.Repeat([]byte("state"), 1<<20)
	for name, row := range map[string]struct {
		backup func(io.Writer) error
		says   string
	}{
		"whole":               {func(w io.Writer) error { _, err := w.Write(whole); return err }, ""},
		"refused":             {func(io.Writer) error { return yr.E("backup", yr.DiskFailed, "no disk") }, "no disk"},
		"broken off halfways": {func(w io.Writer) error { _, _ = w.Write(whole[:len(whole)/2]); return errors.New("gone") }, "backup"},
	} {
		for _, at := range []*fixture{nodes[0], nodes[2]} {
			m.backup = row.backup
			var out bytes.Buffer
			n, err := at.unix.Backup(ctx, &out)
			if row.says != "" {
				require.ErrorContains(t, err, row.says, name)
				continue
			}
			require.NoError(t, err)
			require.EqualValues(t, len(whole), n)
			require.True(t, bytes.Equal(whole, out.Bytes()))
		}
	}
	m.mu.Lock()
	m.nodes[0].Leader = false
	m.mu.Unlock()
	_, err = n.unix.Masters(ctx)
	require.Equal(t, yr.Communication, yr.CodeOf(err))
	require.ErrorContains(t, err, "no leader")
}

// A node that joins asks for the masters before it has shown its token to anybody.
func TestWhereTheMastersAre(t *testing.T) {
	nodes, m := several(t)
	for _, row := range []struct {
		name    string
		header  []string
		members int
	}{{"a stranger", nil, 0}, {"with the token", []string{"Authorization", "Bearer " + token}, 3}} {
		for i, n := range nodes {
			resp, body := n.get(t, "GET", "/global-scheduler/masterinfo", row.header...)
			require.Equal(t, 200, resp.StatusCode, body)
			var info struct {
				MasterAddress string   `json:"master_address"`
				Masters       []string `json:"masters"`
				Topo          struct {
					Members []any `json:"members"`
				} `json:"schedule_topo"`
			}
			require.NoError(t, json.Unmarshal([]byte(body), &info))
			require.Equal(t, m.nodes[0].Address, info.MasterAddress, "asked of n%d", i+1)
			require.Equal(t, []string{m.nodes[0].Address}, info.Masters)
			require.Len(t, info.Topo.Members, row.members)
		}
	}
}

// Nodes that have proved who they are need no token, and send none.
func TestPeersAskWithoutTheToken(t *testing.T) {
	m := &members{}
	addresses := map[string]string{} // what a node is called -> where its peers' listener is
	var nodes []*fixture
	for _, name := range []yr.Node{"n1", "n2"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		addresses["bus-of-"+string(name)+":1"] = l.Addr().String()
		nodes = append(nodes, open(t, func(o *gateway.Options) {
			o.Cluster, o.Peers, o.Token = m, l, "another of "+string(name)
			o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", addresses[address])
			}
			o.Source.(*node).view.ID = name
		}))
		m.nodes = append(m.nodes, yr.NodeView{ID: name, Address: "bus-of-" + string(name) + ":1", State: "ready"})
	}
	nodes[1].source.instances = []yr.InstanceView{{ID: born(1, 1), Class: "C"}}
	page, err := nodes[0].unix.Instances(t.Context(), client.Filter{})
	require.NoError(t, err)
	require.Empty(t, page.Unreachable)
	require.Equal(t, 1, page.Total)
}
