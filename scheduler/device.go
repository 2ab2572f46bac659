package scheduler

import (
	"slices"
	"strconv"
	"strings"

	"yr/pkg/yr"
)

// pick chooses cards of one model for d. used is what the same plan took before.
func (d *deviceNeed) pick(devices []Device, used []card) []card {
	for _, model := range d.models(devices) {
		var cards []card
		if d.count < whole {
			cards = pickShare(devices, model, d.count, used)
		} else {
			cards = pickWhole(devices, model, int(d.count/whole), used)
		}
		if cards != nil {
			return cards
		}
	}
	return nil
}

// models are the resource names of the node's cards that match, in the node's order.
func (d *deviceNeed) models(devices []Device) []string {
	if d.kind != kindCount {
		return nil // only the number of cards is known
	}
	var names []string
	for i := range devices {
		if devices[i].Type != d.typ {
			continue
		}
		name := resourceName(devices[i])
		if !slices.Contains(names, name) && d.pattern.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

// pickWhole takes n unused cards: the tightest run of neighbours that has n of
// them, else the first n.
func pickWhole(devices []Device, model string, n int, used []card) []card {
	var all, run, best []card
	for i := range devices {
		if resourceName(devices[i]) != model {
			continue
		}
		if left(devices, i, used) < whole {
			best, run = tighter(best, run, n), nil
			continue
		}
		all = append(all, card{i, whole})
		run = append(run, card{i, whole})
	}
	best = tighter(best, run, n)
	switch {
	case best != nil:
		return best[:n]
	case len(all) >= n:
		return all[:n]
	}
	return nil
}

// tighter is the shorter of two runs that hold n.
func tighter(best, run []card, n int) []card {
	if len(run) >= n && (best == nil || len(run) < len(best)) {
		return run
	}
	return best
}

// pickShare takes a fraction of the fullest card that has it left, so that whole
// cards stay whole. Sharing needs to know how large a card is.
func pickShare(devices []Device, model string, share yr.Milli, used []card) []card {
	best, least := -1, whole+1
	for i := range devices {
		if resourceName(devices[i]) != model || devices[i].Memory == 0 {
			continue
		}
		if free := left(devices, i, used); free >= share && free < least {
			best, least = i, free
		}
	}
	if best < 0 {
		return nil
	}
	return []card{{best, share}}
}

// left is what used leaves of a card.
func left(devices []Device, i int, used []card) yr.Milli {
	free := devices[i].Free
	for _, c := range used {
		if c.index == i {
			free -= c.share
		}
	}
	return free
}

// VisibleDevices are the environment variables that show a worker its cards and no
// others. devices is Plan.Devices, env the worker's environment so far:
// YR_NOSET_CUDA_VISIBLE_DEVICES=1 and YR_NOSET_ASCEND_RT_VISIBLE_DEVICES=1 there
// turn them off. A worker that asked for no card sees all.
func VisibleDevices(devices map[string][]int, env map[string]string) map[string]string {
	ids := make(map[string][]int) // by variable
	for name, cards := range devices {
		variable := "CUDA_VISIBLE_DEVICES"
		if strings.HasPrefix(name, "NPU/") {
			variable = "ASCEND_RT_VISIBLE_DEVICES"
		}
		if env["YR_NOSET_"+variable] != "1" {
			ids[variable] = append(ids[variable], cards...)
		}
	}
	visible := make(map[string]string, len(ids))
	for variable, cards := range ids {
		slices.Sort(cards)
		var text []string
		for _, id := range slices.Compact(cards) { // two shares of one card name it once
			text = append(text, strconv.Itoa(id))
		}
		visible[variable] = strings.Join(text, ",")
	}
	return visible
}
