package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// BenchmarkFetchBetweenNamespaces compares Fetch of 100 MB with iperf3 between two
// network namespaces, turn by turn in one run. It needs root, ip and iperf3.
//
//	go test -run '^$' -bench Namespaces -benchtime 5x ./pkg/peer
func BenchmarkFetchBetweenNamespaces(b *testing.B) {
	for _, tool := range []string{"ip", "iperf3"} {
		if _, err := exec.LookPath(tool); err != nil || os.Geteuid() != 0 {
			b.Skip("needs root, ip and iperf3")
		}
	}
	near, far := fmt.Sprintf("yrpa%d", os.Getpid()), fmt.Sprintf("yrpb%d", os.Getpid())
	sh := func(args ...string) {
		out, err := exec.Command("ip", args...).CombinedOutput()
		require.NoError(b, err, "ip %v: %s", args, out)
	}
	for _, ns := range []string{near, far} {
		sh("netns", "add", ns)
		b.Cleanup(func() { sh("netns", "del", ns) })
	}
	sh("link", "add", near, "netns", near, "type", "veth", "peer", "name", far, "netns", far)
	for ns, address := range map[string]string{near: "10.207.7.1/30", far: "10.207.7.2/30"} {
		sh("-n", ns, "addr", "add", address, "dev", ns)
		sh("-n", ns, "link", "set", ns, "up")
	}
	iperf := inNamespace(b, far, "", "iperf3", "-s", "-p", "5207", "--forceflush")
	serve := inNamespace(b, far, "serve", os.Args[0])
	eventually(b, "both servers answer", func() bool {
		return strings.Contains(iperf.String(), "listening") && strings.Contains(serve.String(), "serving")
	})
	var ours, theirs float64
	for b.Loop() {
		out, err := exec.Command("ip", "netns", "exec", near, "iperf3", "-c", "10.207.7.2", "-p", "5207", "-n", fmt.Sprint(10*bulkSize), "-J").Output()
		require.NoError(b, err)
		var r struct {
			End struct {
				Received struct {
					Bits float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			}
		}
		require.NoError(b, json.Unmarshal(out, &r))
		theirs += r.End.Received.Bits / 8

		fetch := exec.Command("ip", "netns", "exec", near, os.Args[0])
		fetch.Env = append(os.Environ(), roleVariable+"=fetch")
		out, err = fetch.Output()
		require.NoError(b, err)
		var speed float64
		_, err = fmt.Sscan(string(out), &speed)
		require.NoError(b, err)
		ours += speed
	}
	b.ReportMetric(ours/float64(b.N)/1e6, "MB/s")
	b.ReportMetric(theirs/float64(b.N)/1e6, "iperf3-MB/s")
	b.ReportMetric(ours/theirs, "ratio")
}

// inNamespace runs a command until the benchmark ends and returns what it prints.
func inNamespace(b *testing.B, ns, role string, command ...string) fmt.Stringer {
	b.Helper()
	c := exec.Command("ip", append([]string{"netns", "exec", ns}, command...)...)
	c.Env = append(os.Environ(), roleVariable+"="+role)
	c.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out := &syncBuffer{}
	c.Stdout = out
	require.NoError(b, c.Start())
	b.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	return out
}

// roleVariable makes the test binary one end of BenchmarkFetchBetweenNamespaces.
const roleVariable = "YR_PEER_ROLE"

const roleAddress = "10.207.7.2:5208"

func playRole(role string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	opt := Options{Node: "serve", Address: roleAddress, Incarnation: 1, Token: "a token"}
	if role == "serve" {
		fd, err := unix.MemfdCreate("bulk", 0)
		fail(err)
		f := os.NewFile(uintptr(fd), "bulk")
		_, err = f.Write(bytes.Repeat([]byte("yr"), bulkSize/2))
		fail(err)
		opt.Source = &memory{f}
		p := New(opt)
		fail(p.Open(ctx))
		ln, err := net.Listen("tcp", roleAddress)
		fail(err)
		p.Split(ln)
		fmt.Println("serving")
		select {}
	}
	opt.Node = "fetch"
	p := New(opt)
	fail(p.Open(ctx))
	into := make([]byte, bulkSize)
	read := func() {
		_, err := p.Fetch(ctx, "serve", roleAddress, []byte("x"), func(int64) ([]byte, error) { return into, nil })
		fail(err)
	}
	read() // the pages' first use, which iperf3's small buffer does not have either
	begun := time.Now()
	const times = 10
	for range times {
		read()
	}
	fmt.Println(times * bulkSize / time.Since(begun).Seconds())
	fail(p.Close(ctx))
}
