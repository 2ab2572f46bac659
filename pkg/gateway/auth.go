package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"

	"yr/pkg/gateway/answer"
	"yr/pkg/gateway/scheduler"
	"yr/pkg/yr"
)

// withToken lets a request pass that carries "Authorization: Bearer <token>", or
// that asks for what everybody may know.
func withToken(o Options, next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(o.Token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Digests have one length, so that comparing them takes one time.
		got := sha256.Sum256([]byte(bearer(r.Header.Get("Authorization"))))
		if o.Insecure || subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			next.ServeHTTP(w, r)
			return
		}
		if public(r) {
			next.ServeHTTP(w, r.WithContext(scheduler.Stranger(r.Context())))
			return
		}
		w.Header().Set("WWW-Authenticate", "Bearer")
		answer.Fail(w, yr.E("authorize", yr.Unauthorized,
			"send the cluster's token as `Authorization: Bearer <token>`; `yr start` shows it, and on the master it is in %s", o.TokenFile))
	})
}

// public are the requests that need no token: is the daemon well, where is its
// socket (which checks for itself who connects), where are the masters (so that
// a joining node shows its token to nobody).
func public(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) &&
		(r.URL.Path == "/yr/v1/endpoint" || r.URL.Path == scheduler.PublicPath || slices.Contains(scheduler.HealthPaths, r.URL.Path))
}

func bearer(header string) string {
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

type peerKey struct{}

// rememberPeer notes the user at the other end of a Unix connection.
func rememberPeer(ctx context.Context, c net.Conn) context.Context {
	if counted, ok := c.(*countedConn); ok && counted.hasUID {
		return context.WithValue(ctx, peerKey{}, counted.uid)
	}
	return ctx
}

// samePeer lets the daemon's own user and root pass.
func samePeer(next http.Handler) http.Handler {
	own := uint32(os.Geteuid()) //nolint:gosec // a user id
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		uid, ok := r.Context().Value(peerKey{}).(uint32)
		if !ok || (uid != own && uid != 0) {
			answer.Fail(w, yr.E("authorize", yr.Unauthorized,
				"this socket serves user %d and root; run the command as that user, or use TCP with the cluster's token", own))
			return
		}
		next.ServeHTTP(w, r)
	})
}
