package scheduler

// Why a request was not placed, for people. The words are openYuanrong's, because
// people search for them; the numbers in brackets are ours.

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"yr/pkg/yr"
)

// shortage is what one node lacks.
type shortage struct {
	name string // of the resource; empty: text says all
	text string
	rank int // the node's worst shortage is its reason
}

// Shortages from the one that a release can cure to the one that nothing can.
const (
	notEnough = iota
	outOfCapacity
	notFound
	other
)

var shortageText = [...]string{notEnough: "Not Enough", outOfCapacity: "Out Of Capacity", notFound: "Not Found"}

// refuse explains a request for which no node has room now.
func refuse(s *State, n *need, require []Condition) Plan {
	if len(s.Nodes) == 0 {
		return Plan{Verdict: Wait, Code: yr.ResourceNotEnough, Reason: "no node has joined the cluster yet"}
	}
	possible := false
	counts := make(map[shortage]int)
	var order []shortage
	for i := range s.Nodes {
		node := &s.Nodes[i]
		if !possible && labelled(node, require) {
			_, possible = holds(node, n, true)
		}
		short := lacks(node, n, require)
		if counts[short]++; counts[short] == 1 {
			order = append(order, short)
		}
	}
	reasons := listReasons(s, n, order, counts)
	if possible {
		return Plan{Verdict: Wait, Code: yr.ResourceNotEnough, Reason: reasons}
	}
	return Plan{
		Verdict: Never, Code: yr.ResourceConfigError,
		Reason: "invalid resource parameter: no node can ever hold " + impossible(s, n) + ": " + reasons,
	}
}

// lacks is the reason why this node does not take the request.
func lacks(node *Node, n *need, require []Condition) shortage {
	worst := shortage{rank: -1}
	consider := func(name string, rank int) {
		if rank > worst.rank {
			worst = shortage{name, shortageText[rank], rank}
		}
	}
	for _, a := range n.amounts {
		if node.Available[a.name] < a.value {
			consider(a.name, grade(node.Capacity[a.name], a.value))
		}
	}
	for i := range n.devices {
		d := &n.devices[i]
		switch {
		case !d.known(node.Devices):
			consider(d.key, notFound)
		case !d.enough(node.Devices, true):
			consider(d.key, outOfCapacity)
		case !d.enough(node.Devices, false):
			consider(d.key, notEnough)
		}
	}
	switch {
	case !labelled(node, require):
		return shortage{text: "label mismatch", rank: other}
	case worst.rank < 0 && node.Cordoned:
		return shortage{text: "cordoned", rank: other}
	case worst.rank < 0: // requests for cards that are possible one by one and not together
		return shortage{text: "devices: Not Enough together", rank: other}
	}
	return worst
}

func grade(capacity, asked yr.Milli) int {
	switch {
	case capacity == 0:
		return notFound
	case capacity < asked:
		return outOfCapacity
	}
	return notEnough
}

func listReasons(s *State, n *need, order []shortage, counts map[shortage]int) string {
	var b strings.Builder
	b.WriteString("no available resource that meets the request requirements, The reasons are as follows:")
	for _, short := range order {
		unit := "units"
		if counts[short] == 1 {
			unit = "unit"
		}
		fmt.Fprintf(&b, "\n\t%d %s, ", counts[short], unit)
		if short.name == "" {
			b.WriteString(short.text)
			continue
		}
		fmt.Fprintf(&b, "%s: %s", short.name, short.text)
		if short.rank == notEnough {
			b.WriteString(inUse(s, n, short.name))
		}
	}
	return b.String()
}

// inUse says where most of a short resource is left, and how much of it is in use.
func inUse(s *State, n *need, name string) string {
	var where yr.Node
	var asked, left, capacity yr.Milli
	for i := range s.Nodes {
		if s.Nodes[i].Cordoned {
			continue
		}
		need, free, all := n.amount(&s.Nodes[i], name)
		if where == "" || free > left {
			where, asked, left, capacity = s.Nodes[i].ID, need, free, all
		}
	}
	if where == "" {
		return ""
	}
	return fmt.Sprintf(" (asked for %s; most is free on %s: %s of %s, %s in use)", asked, where, max(left, 0), capacity, capacity-left)
}

// amount is what is asked for, free and there in all of a resource on a node.
func (n *need) amount(node *Node, name string) (asked, free, capacity yr.Milli) {
	for _, a := range n.amounts {
		if a.name == name {
			return a.value, node.Available[name], node.Capacity[name]
		}
	}
	for i := range n.devices {
		if d := &n.devices[i]; d.key == name {
			asked = d.count
			for j := range node.Devices {
				if !d.first(node.Devices, j) {
					continue
				}
				if f, c := d.cardsOf(node, node.Devices[j].Model); c > capacity {
					free, capacity = f, c
				}
			}
		}
	}
	return asked, free, capacity
}

func (d *deviceNeed) cardsOf(node *Node, model string) (free, capacity yr.Milli) {
	for i := range node.Devices {
		if d.of(&node.Devices[i], model) {
			free += node.Devices[i].Free
			capacity += whole
		}
	}
	return free, capacity
}

// impossible names what no empty node has enough of; if each is there somewhere,
// all of it together.
func impossible(s *State, n *need) string {
	var parts, all []string
	consider := func(name string, asked yr.Milli, enough func(*Node) bool) {
		text := name + "=" + asked.String()
		all = append(all, text)
		largest := yr.Milli(0)
		for i := range s.Nodes {
			if enough(&s.Nodes[i]) {
				return
			}
			_, _, capacity := n.amount(&s.Nodes[i], name)
			largest = max(largest, capacity)
		}
		switch {
		case largest == 0:
			parts = append(parts, text+" (no node has "+name+")")
		case largest >= asked: // a fraction
			parts = append(parts, text+" (only the number of cards is known here; ask for whole cards)")
		default:
			parts = append(parts, fmt.Sprintf("%s (largest node has %s=%s)", text, name, largest))
		}
	}
	for _, a := range n.amounts {
		consider(a.name, a.value, func(node *Node) bool { return node.Capacity[a.name] >= a.value })
	}
	for i := range n.devices {
		d := &n.devices[i]
		consider(d.key, d.count, func(node *Node) bool { return d.enough(node.Devices, true) })
	}
	if len(parts) > 0 {
		return strings.Join(parts, ", ")
	}
	return strings.Join(all, " ") + " (each is there, but not together on one node with the labels asked for)"
}

// Expired words the failure of a request whose schedule timeout has passed.
func Expired(reason string, timeout time.Duration, tries int) string {
	return fmt.Sprintf("the instance cannot be scheduled within %d ms. which has been scheduled for %d times. The latest failure: %s",
		timeout.Milliseconds(), tries, reason)
}

// message is the text of an error made here, without the operation.
func message(err error) string {
	var e *yr.Error
	if errors.As(err, &e) {
		return e.Msg
	}
	return err.Error()
}
