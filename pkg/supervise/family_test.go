package supervise

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is also the parent and the child of its tests; this variable
// says which.
const (
	envRole  = "SUPERVISE_TEST_ROLE"
	envGiven = "SUPERVISE_TEST_GIVEN" // the parent inherits descriptor 3
)

func TestMain(m *testing.M) {
	switch os.Getenv(envRole) {
	case "parent":
		os.Exit(testParent())
	case "child":
		testChild()
	}
	os.Exit(m.Run())
}

func testParent() int {
	kept := map[string]*os.File{}
	if os.Getenv(envGiven) != "" {
		kept["given"] = os.NewFile(3, "given")
	}
	p := &Parent{
		Argv: []string{"child"}, Env: []string{envRole + "=child", "PATH=" + os.Getenv("PATH")}, Kept: kept, Grace: 500 * time.Millisecond,
		Log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, "parent: "+format+"\n", args...) },
	}
	return p.Run(context.Background())
}

// testChild obeys its standard input, a command a line.
func testChild() {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, unix.SIGTERM)
	c, err := Inherit()
	if err != nil {
		fmt.Println("error", err)
		os.Exit(ExitGiveUp)
	}
	go func() {
		<-c.ParentGone()
		fmt.Println("gone")
		os.Exit(0)
	}()
	go func() {
		<-terminated
		fmt.Println("term")
		os.Exit(0)
	}()
	fmt.Println("up", c.Restarts(), os.Getpid())
	var ln net.Listener
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			os.Exit(0)
		}
		f := append(strings.Fields(line), "", "")
		switch f[0] {
		case "keep", "keep-and-die":
			file := memfd(f[2])
			err = c.Keep(f[1], file)
			_ = file.Close()
			if f[0] == "keep-and-die" {
				_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			}
			answer(err)
		case "drop":
			answer(c.Drop(f[1]))
		case "names":
			fmt.Println("names", strings.Join(c.Names(), " "))
		case "read":
			file, _ := c.File(f[1])
			text := make([]byte, 100)
			n, _ := file.ReadAt(text, 0)
			fmt.Println("read", string(text[:n]))
		case "write":
			file, _ := c.File(f[1])
			_, err := file.WriteString(f[2])
			answer(err)
		case "listen":
			ln, err = c.Listen("listener", "unix", f[1])
			answer(err)
		case "accept":
			conn, err := ln.Accept()
			if err == nil {
				_, _ = fmt.Fprintln(conn, "hello")
				_ = conn.Close()
			}
			fmt.Println("accepted", err)
		case "stubborn":
			signal.Ignore(unix.SIGTERM)
			answer(nil)
		case "orphan":
			out, _ := exec.Command("sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!").Output()
			fmt.Println("orphan", strings.TrimSpace(string(out)))
		case "exit":
			n, _ := strconv.Atoi(f[1])
			os.Exit(n)
		}
	}
}

func answer(err error) {
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println("ok")
}

func memfd(text string) *os.File {
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		panic(err)
	}
	f := os.NewFile(uintptr(fd), "test")
	if _, err := f.WriteString(text); err != nil {
		panic(err)
	}
	return f
}
