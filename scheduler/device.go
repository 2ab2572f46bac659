package scheduler

import (
	"slices"
	"strconv"
	"strings"

	"yr/pkg/yr"
)

// pick chooses cards of one model for d. used is what the same plan took before;
// empty asks what would be if nobody else used any.
func (d *deviceNeed) pick(devices []Device, used []card, empty bool) []card {
	for i := range devices {
		if !d.first(devices, i) {
			continue
		}
		var cards []card
		if model := devices[i].Model; d.count < whole {
			cards = d.pickShare(devices, model, used, empty)
		} else {
			cards = d.pickWhole(devices, model, used, empty)
		}
		if cards != nil {
			return cards
		}
	}
	return nil
}

// first reports whether card i is the node's first of a model that is asked for.
func (d *deviceNeed) first(devices []Device, i int) bool {
	if devices[i].Type != d.typ || !d.matches(devices[i].Model) {
		return false
	}
	for j := range devices[:i] {
		if d.of(&devices[j], devices[i].Model) {
			return false
		}
	}
	return true
}

// known reports whether a node has any card that is asked for.
func (d *deviceNeed) known(devices []Device) bool {
	for i := range devices {
		if devices[i].Type == d.typ && d.matches(devices[i].Model) {
			return true
		}
	}
	return false
}

// matches asks the expression once for each model, however many nodes have it.
func (d *deviceNeed) matches(model string) bool {
	if d.kind != kindCount {
		return false // only the number of cards is known
	}
	matches, asked := d.matched[model]
	if !asked {
		matches = d.pattern.MatchString(resourceName(Device{Type: d.typ, Model: model}))
		if d.matched == nil {
			d.matched = make(map[string]bool)
		}
		d.matched[model] = matches
	}
	return matches
}

func (d *deviceNeed) of(device *Device, model string) bool {
	return device.Type == d.typ && device.Model == model
}

// pickWhole takes unused cards: the tightest run of neighbours that has enough of
// them, else the first ones.
func (d *deviceNeed) pickWhole(devices []Device, model string, used []card, empty bool) []card {
	n := int(d.count / whole)
	if d.unused(devices, model, used, empty) < n {
		return nil
	}
	var all, run, best []card
	for i := range devices {
		if !d.of(&devices[i], model) {
			continue
		}
		if left(devices, i, used, empty) < whole {
			best, run = tighter(best, run, n), nil
			continue
		}
		all = append(all, card{i, whole})
		run = append(run, card{i, whole})
	}
	if best = tighter(best, run, n); best != nil {
		return best[:n]
	}
	return all[:n]
}

// tighter is the shorter of two runs that hold n.
func tighter(best, run []card, n int) []card {
	if len(run) >= n && (best == nil || len(run) < len(best)) {
		return run
	}
	return best
}

func (d *deviceNeed) unused(devices []Device, model string, used []card, empty bool) (count int) {
	for i := range devices {
		if d.of(&devices[i], model) && left(devices, i, used, empty) >= whole {
			count++
		}
	}
	return count
}

// enough is whether pick would find cards for this need alone.
func (d *deviceNeed) enough(devices []Device, empty bool) bool {
	for i := range devices {
		switch {
		case !d.first(devices, i):
		case d.count < whole:
			if d.pickShare(devices, devices[i].Model, nil, empty) != nil {
				return true
			}
		case d.unused(devices, devices[i].Model, nil, empty) >= int(d.count/whole):
			return true
		}
	}
	return false
}

// pickShare takes a fraction of the fullest card that has it left, so that whole
// cards stay whole. Sharing needs to know how large a card is.
func (d *deviceNeed) pickShare(devices []Device, model string, used []card, empty bool) []card {
	best, least := -1, whole+1
	for i := range devices {
		if !d.of(&devices[i], model) || devices[i].Memory == 0 {
			continue
		}
		if free := left(devices, i, used, empty); free >= d.count && free < least {
			best, least = i, free
		}
	}
	if best < 0 {
		return nil
	}
	return []card{{best, d.count}}
}

// left is what used leaves of a card.
func left(devices []Device, i int, used []card, empty bool) yr.Milli {
	free := devices[i].Free
	if empty {
		free = whole
	}
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
