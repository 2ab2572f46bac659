// Package codec turns the words of this system into the messages that nodes and the
// leader exchange, and back. What a peer sent is checked here and nowhere else.
package codec

import (
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"yr/master"
	"yr/master/masterpb"
	"yr/pkg/yr"
	"yr/scheduler"
)

// Bounds on what a peer may say; a node that says more is refused.
const (
	MaxNode      = 256 // bytes of a node's name, and of its identity
	MaxAddress   = 512
	MaxResources = 256 // kinds of resources of a node or a request
	MaxLabels    = 1024
	MaxDevices   = 256
	MaxTaken     = 4096
	maxWord      = 512 // bytes of a resource, a label, a value
)

// Amounts encodes resources in the order of their names, so that equal resources
// are equal bytes.
func Amounts(r yr.Resources) []*masterpb.Amount {
	amounts := make([]*masterpb.Amount, 0, len(r))
	for name, milli := range r {
		amounts = append(amounts, &masterpb.Amount{Name: name, Milli: int64(milli)})
	}
	slices.SortFunc(amounts, func(a, b *masterpb.Amount) int { return strings.Compare(a.Name, b.Name) })
	return amounts
}

// Resources is the inverse of Amounts.
func Resources(amounts []*masterpb.Amount) (yr.Resources, error) {
	if len(amounts) > MaxResources {
		return nil, malformed("%d kinds of resources, at most %d are allowed", len(amounts), MaxResources)
	}
	r := make(yr.Resources, len(amounts))
	for _, a := range amounts {
		if a.GetName() == "" || len(a.GetName()) > maxWord {
			return nil, malformed("the name of a resource has 1 to %d bytes, not %d", maxWord, len(a.GetName()))
		}
		r[a.GetName()] = yr.Milli(a.GetMilli())
	}
	return r, nil
}

// Labels encodes a node's labels in the order of their keys.
func Labels(labels map[string][]string) []*masterpb.Label {
	list := make([]*masterpb.Label, 0, len(labels))
	for key, values := range labels {
		list = append(list, &masterpb.Label{Key: key, Values: values})
	}
	slices.SortFunc(list, func(a, b *masterpb.Label) int { return strings.Compare(a.Key, b.Key) })
	return list
}

// LabelMap is the inverse of Labels.
func LabelMap(list []*masterpb.Label) (map[string][]string, error) {
	values := 0
	labels := make(map[string][]string, len(list))
	for _, l := range list {
		if len(l.GetKey()) > maxWord {
			return nil, malformed("a label's key has %d bytes, at most %d are allowed", len(l.GetKey()), maxWord)
		}
		for _, v := range l.GetValues() {
			if len(v) > maxWord {
				return nil, malformed("a label's value has %d bytes, at most %d are allowed", len(v), maxWord)
			}
		}
		if values += 1 + len(l.GetValues()); values > MaxLabels {
			return nil, malformed("more than %d labels", MaxLabels)
		}
		labels[l.GetKey()] = l.GetValues()
	}
	return labels, nil
}

// Devices encodes a node's cards in their order, which says which are neighbours.
func Devices(devices []scheduler.Device) []*masterpb.Device {
	list := make([]*masterpb.Device, len(devices))
	for i, d := range devices {
		list[i] = &masterpb.Device{
			Type: d.Type, Model: d.Model, Id: int32(d.ID), Memory: d.Memory, Free: int64(d.Free), //nolint:gosec // a card's number is small
		}
	}
	return list
}

// DeviceList is the inverse of Devices.
func DeviceList(list []*masterpb.Device) ([]scheduler.Device, error) {
	if len(list) > MaxDevices {
		return nil, malformed("%d devices, at most %d are allowed", len(list), MaxDevices)
	}
	devices := make([]scheduler.Device, len(list))
	for i, d := range list {
		if len(d.GetType()) > maxWord || len(d.GetModel()) > maxWord {
			return nil, malformed("the name of a device has more than %d bytes", maxWord)
		}
		devices[i] = scheduler.Device{
			Type: d.GetType(), Model: d.GetModel(), ID: int(d.GetId()), Memory: d.GetMemory(), Free: yr.Milli(d.GetFree()),
		}
	}
	return devices, nil
}

// Request encodes what is asked of the scheduler on behalf of the node local.
func Request(local yr.Node, r scheduler.Request) *masterpb.ScheduleRequest {
	m := &masterpb.ScheduleRequest{
		Local: string(local), Id: r.ID[:], Need: Amounts(r.Need), Tenant: string(r.Tenant),
		Priority: clamp(r.Priority), Relaxed: clamp(r.Relaxed),
	}
	for _, c := range r.Require {
		m.Require = append(m.Require, &masterpb.Condition{Label: c.Label, Operator: uint32(c.Op), Values: c.Values}) //nolint:gosec // four operators
	}
	return m
}

// ScheduleRequest is the inverse of Request.
func ScheduleRequest(m *masterpb.ScheduleRequest) (local yr.Node, r scheduler.Request, err error) {
	if r.ID, err = id(m.GetId()); err != nil {
		return "", r, err
	}
	if r.Need, err = Resources(m.GetNeed()); err != nil {
		return "", r, err
	}
	if len(m.GetRequire()) > MaxLabels {
		return "", r, malformed("%d conditions on labels, at most %d are allowed", len(m.GetRequire()), MaxLabels)
	}
	for _, c := range m.GetRequire() {
		if len(c.GetValues()) > MaxLabels {
			return "", r, malformed("a condition with %d values, at most %d are allowed", len(c.GetValues()), MaxLabels)
		}
		r.Require = append(r.Require, scheduler.Condition{
			Label: c.GetLabel(), Op: scheduler.Operator(c.GetOperator()), Values: c.GetValues(),
		})
	}
	r.Tenant, r.Priority, r.Relaxed = yr.Tenant(m.GetTenant()), int(m.GetPriority()), int(m.GetRelaxed())
	return yr.Node(m.GetLocal()), r, nil
}

// Plan encodes the scheduler's answer; neighbour is the encoded node it names.
func Plan(p scheduler.Plan, neighbour []byte) *masterpb.ScheduleResponse {
	m := &masterpb.ScheduleResponse{
		Verdict: uint32(p.Verdict), Neighbour: neighbour, Take: Amounts(p.Take), //nolint:gosec // three verdicts
		Code: int32(p.Code), Reason: p.Reason,
	}
	for resource, cards := range p.Devices {
		c := &masterpb.Cards{Resource: resource}
		for _, n := range cards {
			c.Ids = append(c.Ids, int32(n)) //nolint:gosec // a card's number is small
		}
		m.Cards = append(m.Cards, c)
	}
	return m
}

// SchedulerPlan is the inverse of Plan. The plan can be read, not applied with
// Node.Take: which cards are given is decided again where the work runs.
func SchedulerPlan(m *masterpb.ScheduleResponse, node yr.Node) (p scheduler.Plan, err error) {
	if m.GetVerdict() > uint32(scheduler.Never) {
		return p, malformed("verdict %d is unknown", m.GetVerdict())
	}
	p = scheduler.Plan{
		Verdict: scheduler.Verdict(m.GetVerdict()), Node: node,
		Code: yr.Code(m.GetCode()), Reason: m.GetReason(),
	}
	if p.Take, err = Resources(m.GetTake()); err != nil {
		return p, err
	}
	for _, c := range m.GetCards() {
		if p.Devices == nil {
			p.Devices = make(map[string][]int)
		}
		for _, n := range c.GetIds() {
			p.Devices[c.GetResource()] = append(p.Devices[c.GetResource()], int(n))
		}
	}
	return p, nil
}

func id(raw []byte) (yr.ID, error) {
	if len(raw) != yr.IDLen {
		return yr.ID{}, malformed("an ID has %d bytes, not %d", yr.IDLen, len(raw))
	}
	return yr.ID(raw), nil
}

// Machine encodes a registering node.
func Machine(m master.Machine) *masterpb.Machine {
	p := &masterpb.Machine{
		Id: string(m.ID), Identity: m.Identity, Address: m.Address, Version: m.Version, Master: m.Master,
		Capacity: Amounts(m.Capacity), Labels: Labels(m.Labels), StartedUnixMs: UnixMilli(m.Started),
	}
	if m.Tag != (yr.Tag{}) {
		p.Tag = m.Tag.String()
	}
	return p
}

// MachineOf is the inverse of Machine.
func MachineOf(p *masterpb.Machine) (m master.Machine, err error) {
	m = master.Machine{
		ID: yr.Node(p.GetId()), Identity: p.GetIdentity(), Address: p.GetAddress(), Version: p.GetVersion(),
		Master: p.GetMaster(), Started: Time(p.GetStartedUnixMs()),
	}
	for _, word := range []struct {
		what, s string
		longest int
	}{
		{"name of a node", p.GetId(), MaxNode}, {"identity of a node", p.GetIdentity(), MaxNode},
		{"address of a node", p.GetAddress(), MaxAddress}, {"version of a node", p.GetVersion(), maxWord},
	} {
		if word.s == "" || len(word.s) > word.longest {
			return m, malformed("the %s has 1 to %d bytes, not %d", word.what, word.longest, len(word.s))
		}
	}
	if p.GetTag() != "" {
		if m.Tag, err = yr.ParseTag(p.GetTag()); err != nil {
			return m, malformed("%v", err)
		}
	}
	if m.Capacity, err = Resources(p.GetCapacity()); err != nil {
		return m, err
	}
	m.Labels, err = LabelMap(p.GetLabels())
	return m, err
}

// Load encodes a report.
func Load(l master.Load) *masterpb.Load {
	p := &masterpb.Load{
		Available: Amounts(l.Available), Devices: Devices(l.Devices),
		Workers: count32(l.Workers), Pending: count32(l.Pending), Empty: l.Empty, Store: Store(l.Store),
	}
	for _, id := range l.Taken {
		p.Taken = append(p.Taken, id[:])
	}
	return p
}

// LoadOf is the inverse of Load. It shares nothing with p.
func LoadOf(p *masterpb.Load) (l master.Load, err error) {
	l = master.Load{
		Workers: int(p.GetWorkers()), Pending: int(p.GetPending()), Empty: p.GetEmpty(), Store: StoreView(p.GetStore()),
	}
	if l.Available, err = Resources(p.GetAvailable()); err != nil {
		return l, err
	}
	if l.Devices, err = DeviceList(p.GetDevices()); err != nil {
		return l, err
	}
	if len(p.GetTaken()) > MaxTaken {
		return l, malformed("%d requests taken, at most %d are allowed in one report", len(p.GetTaken()), MaxTaken)
	}
	for _, raw := range p.GetTaken() {
		taken, err := id(raw)
		if err != nil {
			return l, err
		}
		l.Taken = append(l.Taken, taken)
	}
	return l, nil
}

// Neighbour encodes a node for others.
func Neighbour(n master.Neighbour) []byte {
	raw, err := proto.Marshal(&masterpb.Neighbour{
		Id: string(n.ID), Tag: n.Tag.String(), Address: n.Address, Incarnation: n.Incarnation,
		Capacity: Amounts(n.Capacity), Available: Amounts(n.Available), Labels: Labels(n.Labels),
		Cordoned: n.Cordoned, Master: n.Master,
	})
	if err != nil { // only text that is not UTF-8, which the decoder of a Machine does not let in
		return nil
	}
	return raw
}

// NeighbourOf is the inverse of Neighbour.
func NeighbourOf(raw []byte) (n master.Neighbour, err error) {
	var p masterpb.Neighbour
	if err := proto.Unmarshal(raw, &p); err != nil {
		return n, malformed("the description of a node cannot be read: %v", err)
	}
	n = master.Neighbour{
		ID: yr.Node(p.GetId()), Address: p.GetAddress(), Incarnation: p.GetIncarnation(),
		Cordoned: p.GetCordoned(), Master: p.GetMaster(),
	}
	if n.ID == "" || len(n.ID) > MaxNode {
		return n, malformed("the name of a node has 1 to %d bytes, not %d", MaxNode, len(n.ID))
	}
	if n.Tag, err = yr.ParseTag(p.GetTag()); err != nil {
		return n, malformed("%v", err)
	}
	if n.Capacity, err = Resources(p.GetCapacity()); err != nil {
		return n, err
	}
	if n.Available, err = Resources(p.GetAvailable()); err != nil {
		return n, err
	}
	n.Labels, err = LabelMap(p.GetLabels())
	return n, err
}

// Store encodes a node's shared memory.
func Store(s yr.StoreView) *masterpb.Store {
	return &masterpb.Store{
		Capacity: s.Capacity, Leased: s.Leased, Live: s.Live, Warm: s.Warm,
		Segments: uint64(max(s.Segments, 0)), Objects: uint64(max(s.Objects, 0)), Inline: s.Inline,
	}
}

// StoreView is the inverse of Store.
func StoreView(m *masterpb.Store) yr.StoreView {
	return yr.StoreView{
		Capacity: m.GetCapacity(), Leased: m.GetLeased(), Live: m.GetLive(), Warm: m.GetWarm(),
		Segments: count(m.GetSegments()), Objects: count(m.GetObjects()), Inline: m.GetInline(),
	}
}

// Time reads a time that is only shown; zero stays the zero time.
func Time(unixMilli int64) time.Time {
	if unixMilli == 0 {
		return time.Time{}
	}
	return time.UnixMilli(unixMilli)
}

// UnixMilli is the inverse of Time.
func UnixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func count32(n int) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }

func count(n uint64) int { return int(min(n, math.MaxInt64)) }

func clamp(n int) int32 { return int32(min(max(n, math.MinInt32), math.MaxInt32)) }

func malformed(format string, args ...any) error {
	return yr.E("master", yr.ParamInvalid, format, args...)
}
