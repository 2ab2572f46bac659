package gateway_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"yr/pkg/gateway/client"
	"yr/pkg/yr"
)

func TestLogs(t *testing.T) {
	f := open(t, nil)
	ctx := t.Context()
	f.source.instances = []yr.InstanceView{
		{ID: id(1), Name: "counter", Class: "C", Worker: "w1", PID: 5, State: "running"},
		{ID: id(2), Class: "C", State: "scheduling"},
	}
	f.source.calls = []yr.CallView{{ID: id(3), Worker: "w1", State: "running"}, {ID: id(4), State: "queued"}}
	require.NoError(t, os.WriteFile(filepath.Join(f.logs, "runtime-w1.out"), []byte("one\ntwo\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(f.logs, "runtime-w0.err"), []byte("ended\n"), 0o600))

	for what, want := range map[string]string{id(1).String(): "two\n", "counter": "two\n", "w1": "two\n", id(3).String(): "two\n", "w0": "ended\n", id(9).String(): "ended\n"} {
		var out bytes.Buffer
		require.NoError(t, f.unix.Logs(ctx, what, client.LogOptions{Tail: 1}, &out), what)
		require.Equal(t, want, out.String(), what)
	}
	for what, says := range map[string]string{
		id(2).String(): "no process yet", id(4).String(): "no worker yet", "nobody": "nothing here is called",
		"../../etc/passwd": "nothing here is called", "..": "",
	} {
		err := f.unix.Logs(ctx, what, client.LogOptions{Tail: -1}, io.Discard)
		require.ErrorContains(t, err, says, what)
	}
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(f.unix.Logs(ctx, "w1", client.LogOptions{Stream: "x"}, io.Discard)))
	for _, query := range []string{"tail=-1", "tail=x", "follow=maybe"} {
		resp, _ := f.get(t, "GET", "/yr/v1/logs/w1?"+query, "Authorization", "Bearer "+token)
		require.Equal(t, 400, resp.StatusCode, query)
	}
}

func TestFollowedLogsEnd(t *testing.T) {
	f := open(t, nil)
	f.source.instances = []yr.InstanceView{{ID: id(1), Class: "C", Worker: "w1", PID: 5}}
	require.NoError(t, os.WriteFile(filepath.Join(f.logs, "runtime-w1.out"), []byte("one\n"), 0o600))

	follow := func(ctx context.Context, c *client.Client) (*io.PipeReader, chan error) {
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() {
			err := c.Logs(ctx, "w1", client.LogOptions{Follow: true, Tail: -1}, w)
			_ = w.CloseWithError(err)
			done <- err
		}()
		line := make([]byte, 4)
		_, err := io.ReadFull(r, line)
		require.NoError(t, err)
		require.Equal(t, "one\n", string(line), "what there is comes at once")
		return r, done
	}

	ctx, cancel := context.WithCancel(t.Context())
	r, done := follow(ctx, f.unix)
	cancel()
	_, _ = io.Copy(io.Discard, r)
	require.NoError(t, <-done, "the reader may go when it likes")

	r, done = follow(t.Context(), f.tcp)
	require.NoError(t, f.Close(t.Context()), "a followed log does not hold the daemon up")
	_, _ = io.Copy(io.Discard, r)
	<-done
}
