package devices

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"yr/pkg/yr"
)

// machine is a Host made of texts: what each program prints, which files there
// are, what the environment says.
type machine struct {
	prints map[string]string
	files  []string
	env    map[string]string
}

func (m machine) host() Host {
	return Host{
		Run: func(_ context.Context, name string, args ...string) (string, error) {
			text, ok := m.prints[strings.Join(append([]string{name}, args...), " ")]
			if !ok {
				return "", errors.New("executable file not found in $PATH")
			}
			return text, nil
		},
		Glob:   func(string) ([]string, error) { return m.files, nil },
		Getenv: func(name string) string { return m.env[name] },
	}
}

const (
	nvidia  = "nvidia-smi --query-gpu=name,index --format=csv,noheader"
	npuInfo = "npu-smi info -m"
)

func TestFind(t *testing.T) {
	two := map[string]string{nvidia: "NVIDIA A100-SXM4, 1\nNVIDIA A100-SXM4, 0\nTesla T4, 2\n"}
	npuTable := map[string]string{npuInfo: `
	NPU ID                         Chip ID                        Chip Logic ID                  Chip Name
	0                              0                              0                              Ascend 910B4
	0                              1                              -                              Mcu
	1                              0                              1                              Ascend 910B4
`}
	davinci := []string{"/dev/davinci0", "/dev/davinci1"}
	for _, row := range []struct {
		name string
		on   machine
		opt  Options
		want Cards
	}{
		{"nothing asked for", machine{prints: two}, Options{NPUs: "off"}, Cards{}},
		{"no card at all", machine{}, Options{NPUs: "all"}, Cards{}},
		{"GPUs by model", machine{prints: two}, Options{GPUs: true},
			Cards{"GPU/NVIDIA-A100-SXM4/count": {0, 1}, "GPU/Tesla-T4/count": {2}}},
		{"GPUs that the environment hides", machine{prints: two, env: map[string]string{"CUDA_VISIBLE_DEVICES": "2,0"}},
			Options{GPUs: true}, Cards{"GPU/NVIDIA-A100-SXM4/count": {0}, "GPU/Tesla-T4/count": {2}}},
		{"a GPU without a name", machine{prints: map[string]string{nvidia: ", 0\n"}}, Options{GPUs: true},
			Cards{"GPU/cuda/count": {0}}},
		{"NPUs named by their tool", machine{files: davinci, prints: npuTable}, Options{NPUs: "all"},
			Cards{"NPU/Ascend-910B4/count": {0, 1}}},
		{"NPUs without their tool", machine{files: davinci}, Options{NPUs: "all"}, Cards{"NPU/Ascend/count": {0, 1}}},
		{"NPUs switched off", machine{files: davinci}, Options{NPUs: "OFF"}, Cards{}},
	} {
		t.Run(row.name, func(t *testing.T) {
			cards, err := Find(context.Background(), row.on.host(), row.opt)
			require.NoError(t, err)
			require.Equal(t, row.want, cards)
		})
	}
}

func TestGPUsWithoutADriverSaySo(t *testing.T) {
	cards, err := Find(context.Background(), machine{}.host(), Options{GPUs: true})
	require.ErrorContains(t, err, "nvidia-smi cannot be asked")
	require.Empty(t, cards)
}

func TestResources(t *testing.T) {
	require.Equal(t, yr.Resources{"GPU/T4/count": yr.Amount(2)}, Cards{"GPU/T4/count": {0, 1}}.Resources())
}
