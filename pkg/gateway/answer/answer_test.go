package answer_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"yr/pkg/gateway/answer"
	"yr/pkg/yr"
)

func TestStatusOfCodes(t *testing.T) {
	for code, status := range map[yr.Code]int{
		yr.ParamInvalid: 400, yr.Unauthorized: 401, yr.InstanceNotFound: 404, yr.ObjectNotFound: 404, yr.AlreadyRunning: 409,
		yr.RateLimited: 429, yr.Internal: 500, yr.UserException: 500, yr.Communication: 503, yr.StoreFull: 503,
		yr.DeadlineExceeded: 504, yr.DiskFull: 507, yr.Code(12345): 500, yr.OK: 200,
	} {
		require.Equal(t, status, answer.Status(code), code)
	}
}

func TestFail(t *testing.T) {
	for _, row := range []struct {
		err    error
		status int
		body   string
	}{
		{yr.E("op", yr.ParamInvalid, "bad %d", 1), 400, `{"code":1001,"message":"op: bad 1"}`},
		{fmt.Errorf("outer: %w", yr.E("op", yr.DiskFull, "full")), 507, `{"code":4204,"message":"outer: op: full"}`},
		{yr.E("op", yr.ParamInvalid, "<&>"), 400, `{"code":1001,"message":"op: <&>"}`},
		{fmt.Errorf("plain"), 500, `{"code":3003,"message":"plain"}`},
		{yr.Wrap("read", yr.Internal, &http.MaxBytesError{Limit: 5}), 413, `{"code":1001,"message":"the request's body is too large: read: http: request body too large"}`},
	} {
		w := httptest.NewRecorder()
		answer.Fail(w, row.err)
		require.Equal(t, row.status, w.Code)
		require.Equal(t, row.body+"\n", w.Body.String())
		require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	}
}

func TestWhatCannotBeEncodedIsAnError(t *testing.T) {
	w := httptest.NewRecorder()
	answer.JSON(w, make(chan int))
	require.Equal(t, 500, w.Code)
	require.True(t, json.Valid(w.Body.Bytes()))
}

func TestFlag(t *testing.T) {
	for text, want := range map[string]bool{"": false, "f": true, "f=": true, "f=1": true, "f=true": true, "f=0": false, "f=false": false} {
		q, err := url.ParseQuery(text)
		require.NoError(t, err)
		got, err := answer.Flag(q, "f")
		require.NoError(t, err)
		require.Equal(t, want, got, text)
	}
	_, err := answer.Flag(url.Values{"f": {"perhaps"}}, "f")
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
}

// Whatever is asked, a page is a part of the list and says which.
func FuzzCut(f *testing.F) {
	f.Add("limit=10&offset=5", 20)
	f.Add("limit=-1", 3)
	f.Add("offset=9999999999999999999999", 0)
	f.Add("limit=%31&offset=+1", 7)
	f.Fuzz(func(t *testing.T, text string, n int) {
		query, err := url.ParseQuery(text)
		if err != nil || n < 0 || n > 100_000 {
			return
		}
		all := make([]int, n)
		for i := range all {
			all[i] = i
		}
		page, err := answer.Cut(query, all)
		if err != nil {
			require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
			return
		}
		require.Equal(t, n, page.Total)
		require.LessOrEqual(t, len(page.Items), page.Limit)
		require.LessOrEqual(t, page.Limit, answer.MaxLimit)
		require.NotNil(t, page.Items)
		for i, v := range page.Items {
			require.Equal(t, page.Offset+i, v)
		}
	})
}
