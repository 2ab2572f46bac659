package scheduler

import (
	"yr/pkg/yr"
)

// Place decides where a request goes: the local node if it fits there, however
// busy that is; else the node with room that scores best, the first of equals.
//
// hot: once for every worker that is started.
func Place(s *State, r Request) Plan {
	n, err := parseNeed(r.Need)
	if err != nil {
		return Plan{Verdict: Never, Code: yr.ParamInvalid, Reason: message(err)}
	}
	if local := s.local(); local != nil {
		if fit, ok := fits(local, &n, r.Require); ok {
			return plan(local, &n, fit)
		}
	}
	if node, fit := best(s, &n, r); node != nil {
		return plan(node, &n, fit)
	}
	return refuse(s, &n, r.Require)
}

// local is the node that is tried first, if there is one.
func (s *State) local() *Node {
	for i := range s.Nodes {
		if s.Nodes[i].ID == s.Local {
			return &s.Nodes[i]
		}
	}
	return nil
}

func best(s *State, n *need, r Request) (*Node, []card) {
	var node *Node
	var cards []card
	top, found := 0.0, 0
	for i := range s.Nodes {
		fit, ok := fits(&s.Nodes[i], n, r.Require)
		if !ok {
			continue
		}
		if v := score(&s.Nodes[i], n, fit); node == nil || v > top {
			node, cards, top = &s.Nodes[i], fit, v
		}
		if found++; found == r.Relaxed {
			break
		}
	}
	return node, cards
}

// fits reports whether a node has room now, and which cards it would give.
func fits(node *Node, n *need, require []Condition) (cards []card, ok bool) {
	if node.Cordoned || !labelled(node, require) {
		return nil, false
	}
	return holds(node, n, false)
}

func labelled(node *Node, require []Condition) bool {
	for _, c := range require {
		if !c.Holds(node.Labels) {
			return false
		}
	}
	return true
}

// holds is fits as far as amounts go; empty asks it of the node as it would be if
// nothing ran there.
func holds(node *Node, n *need, empty bool) (cards []card, ok bool) {
	available := node.Available
	if empty {
		available = node.Capacity
	}
	for _, a := range n.amounts {
		if available[a.name] < a.value {
			return nil, false
		}
	}
	for i := range n.devices {
		got := n.devices[i].pick(node.Devices, cards, empty)
		if got == nil {
			return nil, false
		}
		cards = append(cards, got...)
	}
	return cards, true
}

// score is what would be left of each requested resource, in percent and on
// average, plus the same for cards: the emptiest node wins.
func score(node *Node, n *need, cards []card) float64 {
	sum := 0.0
	for _, a := range n.amounts {
		sum += 1 - float64(a.value)/float64(node.Available[a.name])
	}
	if len(n.amounts) > 0 {
		sum /= float64(len(n.amounts))
	}
	if len(cards) > 0 {
		var taken, free yr.Milli
		for _, c := range cards {
			taken += c.share
		}
		for i := range node.Devices {
			free += node.Devices[i].Free
		}
		sum += 1 - float64(taken)/float64(free)
	}
	return sum * 100
}

func plan(node *Node, n *need, cards []card) Plan {
	p := Plan{Node: node.ID, Take: make(yr.Resources, len(n.amounts)+len(n.devices)), cards: cards}
	for _, a := range n.amounts {
		p.Take[a.name] = a.value
	}
	for _, c := range cards {
		if p.Devices == nil {
			p.Devices = make(map[string][]int)
		}
		d := node.Devices[c.index]
		name := resourceName(d)
		p.Devices[name] = append(p.Devices[name], d.ID)
		p.Take[name] += c.share
	}
	return p
}
