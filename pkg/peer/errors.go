package peer

import (
	"errors"

	"yr/pkg/yr"
)

// Why a peer was refused, or refused us. They are inside a *yr.Error, whose text
// says what to do.
var (
	// ErrToken says that the two ends have different cluster tokens.
	ErrToken = errors.New("the cluster tokens differ")
	// ErrVersion says that the two builds share no protocol version.
	ErrVersion = errors.New("no common protocol version")
	// ErrFenced says that an incarnation was declared dead, or replaced by a later one.
	ErrFenced = errors.New("this incarnation is over")
	// ErrSameNode says that two processes have one node id.
	ErrSameNode = errors.New("two processes have one node id")
	// ErrOtherNode says that somebody else answered at a node's address.
	ErrOtherNode = errors.New("another node answers at this address")
	// ErrProtocol says that the other end does not serve what was asked for.
	ErrProtocol = errors.New("this protocol is not served here")
	// ErrBusy says that the other end has as many connections as it takes.
	ErrBusy = errors.New("too many connections")
	// ErrNotReady says that an end has no incarnation yet, or has just changed it. It passes.
	ErrNotReady = errors.New("not a member of the cluster at the moment")
	// ErrTLS says that one end wants TLS and the other does not.
	ErrTLS = errors.New("one end uses TLS and the other does not")
	// ErrClosed says that the Peers or the Link was closed.
	ErrClosed = errors.New("closed")
)

// reason is a refusal's number on the wire. Numbers are never used again.
type reason uint8

const (
	welcomed       reason = 0
	refusedToken   reason = 1
	refusedVersion reason = 2
	refusedFenced  reason = 3
	refusedSame    reason = 4
	refusedOther   reason = 5
	refusedUnknown reason = 6
	refusedBusy    reason = 7
	refusedEarly   reason = 8
	refusedPlain   reason = 9
)

var refusals = map[reason]struct {
	err  error
	code yr.Code
}{
	refusedToken:   {ErrToken, yr.Unauthorized},
	refusedVersion: {ErrVersion, yr.VersionMismatch},
	refusedFenced:  {ErrFenced, yr.Communication},
	refusedSame:    {ErrSameNode, yr.AlreadyRunning},
	refusedOther:   {ErrOtherNode, yr.Communication},
	refusedUnknown: {ErrProtocol, yr.ParamInvalid},
	refusedBusy:    {ErrBusy, yr.RateLimited},
	refusedEarly:   {ErrNotReady, yr.Communication},
	refusedPlain:   {ErrTLS, yr.InitConnection},
}

// refuse makes the error of a refusal, by us or by the peer.
func refuse(why reason, format string, args ...any) *yr.Error {
	r, ok := refusals[why]
	if !ok { // of a later version
		r.err, r.code = ErrNotReady, yr.Communication
	}
	e := yr.E("peer", r.code, format, args...)
	e.Err = r.err
	return e
}

// reasonOf is the inverse of refuse.
func reasonOf(err error) reason {
	for why, r := range refusals {
		if errors.Is(err, r.err) {
			return why
		}
	}
	return refusedEarly
}

func malformed(format string, args ...any) error {
	return yr.E("peer", yr.FrameMalformed, format, args...)
}
