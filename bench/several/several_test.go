package several

import (
	_ "embed" // the programs
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"yr/test/harness"
	"yr/test/harness/lab"
)

//go:embed speed.py
var speed string

//go:embed echo.py
var echo string

func TestMain(m *testing.M) { harness.Main(m) }

// A round is what one round measured, by name.
type round map[string]float64

// numberOfRounds is YR_ROUNDS, or 5. One iteration of a benchmark is all of them, on one computer.
func numberOfRounds() int {
	if n, err := strconv.Atoi(os.Getenv("YR_ROUNDS")); err == nil && n > 0 {
		return n
	}
	return 5
}

// BenchmarkNodes runs rounds, the first of which does not count, and prints a
// table: medians, least and most, and ratios within rounds.
func BenchmarkNodes(b *testing.B) {
	c := harness.StartComputer(b, 1, 1)
	x, y := c.Nodes[0], c.Nodes[1]
	var floors []*harness.Program
	arguments := []string{y.Host.Address}
	for _, cores := range []string{"apart", "anywhere"} {
		floor := y.Command(harness.Python(b), "-c", echo, y.Host.Address, cores)
		arguments = append(arguments, strings.TrimPrefix(floor.Says("echo at"), "echo at "))
		floors = append(floors, floor)
	}
	driver := x.Python(speed, arguments...)
	driver.Says("ready")
	var rounds []round
	for i := range numberOfRounds() + 1 {
		driver.Tell("round")
		lines := strings.Split(strings.TrimSpace(driver.Lines("{", i+1)), "\n")
		r := round{"tcp stream, MB/s": stream(b, y, x)}
		if err := json.Unmarshal([]byte(lines[i]), &r); err != nil {
			b.Fatal(err)
		}
		if i > 0 {
			rounds = append(rounds, r)
		}
	}
	driver.Kill()
	for _, floor := range floors {
		floor.Kill()
	}
	t := newTable(os.Stdout)
	t.row("tcp echo between hosts, p50", "us", values(rounds, "tcp echo, us"), nil, "")
	t.row("the same, a core for each host", "us", values(rounds, "tcp echo apart, us"), nil, "")
	t.row("local call, p50", "us", values(rounds, "local call, us"), nil, "")
	t.row("remote call, p50", "us", values(rounds, "remote call, us"), ratios(rounds, func(r round) float64 {
		return (r["remote call, us"] - r["local call, us"]) / r["tcp echo apart, us"]
	}), "(remote - local) / echo of two cores <= 2.5")
	t.row("", "", nil, ratios(rounds, func(r round) float64 {
		return (r["remote call, us"] - r["local call, us"]) / r["tcp echo, us"]
	}), "(remote - local) / echo <= 2.5")
	t.row("local calls, pipelined", "/s", values(rounds, "local calls/s"), nil, "")
	t.row("remote calls, pipelined", "/s", values(rounds, "remote calls/s"), ratios(rounds, func(r round) float64 {
		return r["remote calls/s"] / r["local calls/s"]
	}), "remote / local")
	t.row("local instance to first answer", "ms", values(rounds, "local instance, ms"), nil, "")
	t.row("remote instance to first answer", "ms", values(rounds, "remote instance, ms"), ratios(rounds, func(r round) float64 {
		return r["remote instance, ms"] / r["local instance, ms"]
	}), "remote / local")
	t.row("tcp stream between hosts", "MB/s", values(rounds, "tcp stream, MB/s"), nil, "")
	t.row("remote get of 100 MB", "MB/s", values(rounds, "remote get, MB/s"), ratios(rounds, func(r round) float64 {
		return r["remote get, MB/s"] / r["tcp stream, MB/s"]
	}), "get / stream >= 0.7")
	t.print()
}

// BenchmarkFailover kills the leader of three masters in every round, and measures until a new instance with a name, which
// only the leader gives, has answered.
func BenchmarkFailover(b *testing.B) {
	c := harness.StartComputer(b, 3, 0)
	var took []float64
	for range numberOfRounds() {
		leader := c.Leader()
		others := c.Others(leader)
		p := others[0].Python(`
@yr.instance
class Hello:
    def hello(self):
        return 1

def place(name):
    options = yr.InvokeOptions(cpu=300, memory=128, name=name, custom_resources={sys.argv[1]: 1})
    return yr.get(Hello.options(options).invoke().hello.invoke(), timeout=60)

yr.init()
place("first")
say("ready")
sys.stdin.readline()
place("second")
say("placed")
`, others[1].Name)
		p.Says("ready")
		leader.Kill()
		began := time.Now()
		p.Tell("the leader is dead")
		p.Says("placed")
		took = append(took, time.Since(began).Seconds())
		p.MustEnd()
		c.Whole()
	}
	t := newTable(os.Stdout)
	t.row("leader killed, new instance answered", "s", took, nil, "<= 5 s")
	t.print()
}

// stream is what one TCP connection carries from one host to the other: iperf3, or the same thing in Go without it.
func stream(b *testing.B, from, to *harness.Node) float64 {
	if _, err := exec.LookPath("iperf3"); err != nil {
		return plainStream(b, from.Host, to.Host)
	}
	server := to.Command("iperf3", "-s", "-1", "--forceflush")
	server.Says("listening")
	out := from.Command("iperf3", "-c", to.Host.Address, "-n", "1G", "-J").MustEnd()
	server.MustEnd()
	var report struct {
		End struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		b.Fatal(err)
	}
	return report.End.Received.BitsPerSecond / 8e6
}

func plainStream(b *testing.B, from, to *lab.Host) float64 {
	const size = 1 << 30
	ln, err := to.Listen()
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	go func() {
		conn, err := from.Dial(b.Context(), ln.Addr().String())
		if err != nil {
			return
		}
		defer conn.Close()
		chunk := make([]byte, 1<<20)
		for range size / len(chunk) {
			if _, err := conn.Write(chunk); err != nil {
				return
			}
		}
	}()
	conn, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	began := time.Now()
	n, err := io.Copy(io.Discard, conn)
	if err != nil || n != size {
		b.Fatal(n, err)
	}
	return size / time.Since(began).Seconds() / 1e6
}

func values(rounds []round, name string) []float64 {
	return ratios(rounds, func(r round) float64 { return r[name] })
}

func ratios(rounds []round, of func(round) float64) (all []float64) {
	for _, r := range rounds {
		all = append(all, of(r))
	}
	return all
}

// A table shows medians, and the least and the most of the rounds.
type table struct{ *tabwriter.Writer }

func newTable(out io.Writer) table {
	t := table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	fmt.Fprintln(t, "\nwhat\tmedian\tleast..most\tunit\tratio\tleast..most\tbar")
	return t
}

func (t table) row(what, unit string, values, ratio []float64, bar string) {
	fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", what, spread(values), unit, spread(ratio), bar)
}

func (t table) print() { _ = t.Flush() }

func spread(values []float64) string {
	if len(values) == 0 {
		return "\t" // two columns
	}
	sorted := slices.Sorted(slices.Values(values))
	return fmt.Sprintf("%s\t%s..%s", figure(sorted[len(sorted)/2]), figure(sorted[0]), figure(sorted[len(sorted)-1]))
}

// figure writes three digits that mean something.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
