package scheduler

// What a request asks for, read once for all nodes.

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"yr/pkg/yr"
)

const (
	whole yr.Milli = 1000 // one card

	kindCount = "count"
	// maxPattern bounds a model expression; model names are short.
	maxPattern = 256
)

// need is a request's Need in a fixed order.
type need struct {
	amounts []amount
	devices []deviceNeed
}

type amount struct {
	name  string
	value yr.Milli
}

// deviceNeed asks for count cards whose model the expression matches.
type deviceNeed struct {
	key     string // as the user wrote it
	typ     string
	kind    string // "count", or what no node here reports
	count   yr.Milli
	pattern *regexp.Regexp  // over the node's whole resource name, "GPU/<model>/count"
	matched map[string]bool // what pattern said of a model
}

// parseNeed checks and sorts what is asked for. The error has code ParamInvalid.
func parseNeed(r yr.Resources) (need, error) {
	var n need
	kinds := make(map[string]string) // device type -> a kind asked for
	for _, key := range sortedNames(r) {
		value := r[key]
		typ, model, kind, isDevice := splitDevice(key)
		switch {
		case key == "":
			return need{}, invalid("a resource without a name")
		case !isDevice && value < 0:
			return need{}, invalid("%s=%s is negative", key, value)
		case !isDevice && value > 0:
			n.amounts = append(n.amounts, amount{key, value})
		case isDevice:
			d, err := parseDevice(key, typ, model, kind, value)
			if err != nil {
				return need{}, err
			}
			if other := kinds[typ]; other != "" && (other == kindCount) != (kind == kindCount) {
				return need{}, invalid("%s: count and %s exclude each other", key, other)
			}
			kinds[typ] = kind
			n.devices = append(n.devices, d)
		}
	}
	return n, nil
}

// splitDevice takes "GPU/<model expression>/<kind>" apart. The expression may
// contain slashes.
func splitDevice(key string) (typ, model, kind string, ok bool) {
	typ, rest, _ := strings.Cut(key, "/")
	i := strings.LastIndexByte(rest, '/')
	if (typ != "GPU" && typ != "NPU") || i < 0 {
		return "", "", "", false
	}
	return typ, rest[:i], rest[i+1:], true
}

func parseDevice(key, typ, model, kind string, count yr.Milli) (deviceNeed, error) {
	switch {
	case count <= 0:
		return deviceNeed{}, invalid("%s=%s must be above 0", key, count)
	case kind == kindCount && count > whole && count%whole != 0:
		return deviceNeed{}, invalid("%s=%s: above one, cards are asked for as a whole", key, count)
	case model == "" || len(model) > maxPattern:
		return deviceNeed{}, invalid("%s: the model expression has 1 to %d characters", key, maxPattern)
	}
	if _, err := regexp.Compile(model); err != nil { // by itself: "a)|(b" is balanced only in what follows
		return deviceNeed{}, invalid("%s: %v", key, err)
	}
	// Over the whole name, as openYuanrong does: text precedes the expression, so
	// that a '^' in it matches nothing.
	pattern, err := regexp.Compile(`\A` + typ + `/(?:` + model + `)/` + kindCount + `\z`)
	if err != nil {
		return deviceNeed{}, invalid("%s: %v", key, err)
	}
	return deviceNeed{key: key, typ: typ, kind: kind, count: count, pattern: pattern}, nil
}

func invalid(format string, args ...any) error {
	return yr.E("resources", yr.ParamInvalid, "invalid resource parameter: "+format, args...)
}

// resourceName is what a node calls its cards of one model.
func resourceName(d Device) string { return d.Type + "/" + d.Model + "/" + kindCount }

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Limits of what one worker may ask for, openYuanrong's.
const (
	MinCPU    yr.Milli = 300 * 1000 // millicores; 0 is allowed and takes none
	MaxCPU    yr.Milli = 16000 * 1000
	MinMemory yr.Milli = 128 * 1000 // MiB
	MaxMemory yr.Milli = 1073741824 * 1000
)

// Validate checks a request before any node is looked at: amounts out of range
// have code ResourceConfigError, what makes no sense ParamInvalid.
func Validate(r yr.Resources) error {
	if cpu, ok := r[yr.CPU]; ok && cpu != 0 && (cpu < MinCPU || cpu > MaxCPU) {
		return outOfRange("cpu", cpu, MinCPU, MaxCPU, "millicores, or 0")
	}
	if memory, ok := r[yr.Memory]; ok && (memory < MinMemory || memory > MaxMemory) {
		return outOfRange("memory", memory, MinMemory, MaxMemory, "MiB")
	}
	_, err := parseNeed(r)
	return err
}

func outOfRange(name string, v, low, high yr.Milli, unit string) error {
	return yr.E("resources", yr.ResourceConfigError, "%s",
		fmt.Sprintf("invalid resource parameter: %s=%s is out of range, it must be %s to %s %s", name, v, low, high, unit))
}
