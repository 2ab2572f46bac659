// Package devices finds the accelerators of this machine.
//
// Cards are offered as resources "GPU/<model>/count" and "NPU/<model>/count". The
// vendors' tools and the device files are looked at through Host, so that tests
// need no card.
package devices

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"yr/pkg/yr"
)

// toolTimeout bounds a vendor's tool; nvidia-smi takes seconds on a cold driver.
const toolTimeout = 10 * time.Second

// Names of cards whose tool does not tell.
const (
	defaultGPU = "cuda"
	defaultNPU = "Ascend"
)

// Options say what to look for.
type Options struct {
	GPUs bool   // gpu_collection_enable
	NPUs string // npu_collection_mode; "off" looks for none
}

// Host is the machine that is looked at.
type Host struct {
	// Run runs a program and returns what it printed.
	Run func(ctx context.Context, name string, args ...string) (string, error)
	// Glob lists files.
	Glob func(pattern string) ([]string, error)
	// Getenv reads the daemon's environment, which may hide cards from it.
	Getenv func(string) string
}

// Local is this machine.
func Local() Host {
	return Host{
		Run: func(ctx context.Context, name string, args ...string) (string, error) {
			out, err := exec.CommandContext(ctx, name, args...).Output()
			return string(out), err
		},
		Glob:   filepath.Glob,
		Getenv: os.Getenv,
	}
}

// Cards are card numbers by resource name, as in {"GPU/A100/count": {0, 1}}.
type Cards map[string][]int

// Resources is how many there are of each.
func (c Cards) Resources() yr.Resources {
	r := make(yr.Resources, len(c))
	for name, cards := range c {
		r[name] = yr.Amount(float64(len(cards)))
	}
	return r
}

// Find looks for cards. An error says what was asked for and could not be
// found out; the cards found nevertheless are returned with it.
func Find(ctx context.Context, h Host, o Options) (Cards, error) {
	cards := Cards{}
	var errs []error
	if o.GPUs {
		errs = append(errs, h.gpus(ctx, cards))
	}
	if !strings.EqualFold(o.NPUs, "off") {
		errs = append(errs, h.npus(ctx, cards))
	}
	for _, list := range cards {
		sort.Ints(list)
	}
	return cards, errors.Join(errs...)
}

func (h Host) gpus(ctx context.Context, cards Cards) error {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	text, err := h.Run(ctx, "nvidia-smi", "--query-gpu=name,index", "--format=csv,noheader")
	if err != nil {
		return yr.E("find GPUs", yr.ParamInvalid,
			"function_agent.args.gpu_collection_enable is set, but nvidia-smi cannot be asked (%v); install the driver, or leave the option off", err)
	}
	visible := visibleTo(h.Getenv("CUDA_VISIBLE_DEVICES"))
	for _, line := range strings.Split(text, "\n") {
		comma := strings.LastIndexByte(line, ',')
		if comma < 0 {
			continue
		}
		index, err := strconv.Atoi(strings.TrimSpace(line[comma+1:]))
		if err != nil || !visible(index) {
			continue
		}
		cards.add("GPU", model(line[:comma], defaultGPU), index)
	}
	return nil
}

// npus trusts the device files for which cards there are, and asks npu-smi only
// for their names.
func (h Host) npus(ctx context.Context, cards Cards) error {
	files, err := h.Glob("/dev/davinci[0-9]*")
	if err != nil || len(files) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	names := map[int]string{}
	if text, err := h.Run(ctx, "npu-smi", "info", "-m"); err == nil {
		names = npuNames(text)
	}
	visible := visibleTo(h.Getenv("ASCEND_RT_VISIBLE_DEVICES"))
	for _, f := range files {
		index, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(f), "davinci"))
		if err != nil || !visible(index) {
			continue
		}
		cards.add("NPU", model(names[index], defaultNPU), index)
	}
	return nil
}

// npuNames reads the table of `npu-smi info -m`: NPU ID, chip ID, logic ID, name.
// A chip without a logic ID is the controller, not a card.
func npuNames(table string) map[int]string {
	names := map[int]string{}
	for _, line := range strings.Split(table, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 4 {
			continue
		}
		if logic, err := strconv.Atoi(fields[2]); err == nil {
			names[logic] = strings.Join(fields[3:], " ")
		}
	}
	return names
}

// visibleTo reads a list like "0,2"; an empty one shows every card.
func visibleTo(list string) func(int) bool {
	if strings.TrimSpace(list) == "" {
		return func(int) bool { return true }
	}
	shown := map[int]bool{}
	for _, item := range strings.Split(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(item))
		if err != nil || n < 0 {
			break // as the drivers do: what follows an invalid entry is hidden
		}
		shown[n] = true
	}
	return func(n int) bool { return shown[n] }
}

func (c Cards) add(kind, model string, index int) {
	name := kind + "/" + model + "/count"
	c[name] = append(c[name], index)
}

// model makes a product name one element of a resource's name.
func model(name, otherwise string) string {
	name = strings.Join(strings.Fields(strings.ReplaceAll(name, "/", " ")), "-")
	if name == "" {
		return otherwise
	}
	return name
}
