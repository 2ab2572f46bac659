package codec

// Errors cross the wire with their public code: whoever asked sees the same
// *yr.Error as if the leader had been in the same process.

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"yr/master/masterpb"
	"yr/pkg/yr"
)

// Redirect says that the master that was asked does not lead.
type Redirect struct {
	Leader string // address of the one that does; empty: not known now
}

func (r *Redirect) Error() string {
	if r.Leader == "" {
		return "this master does not lead, and no leader is known now"
	}
	return "this master does not lead; " + r.Leader + " does"
}

// Status is the answer of a server that refuses with err.
func Status(err error) error {
	if err == nil {
		return nil
	}
	var redirect *Redirect
	var public *yr.Error
	switch {
	case errors.As(err, &redirect):
		return detailed(codes.FailedPrecondition, redirect, &masterpb.Redirect{Leader: redirect.Leader})
	case errors.As(err, &public):
		text := public.Msg // and the causes, as words
		if public.Err != nil {
			text = strings.TrimPrefix(text+": "+public.Err.Error(), ": ")
		}
		return detailed(codes.Aborted, err, &masterpb.Failure{Code: int32(public.Code), Op: public.Op, Message: text})
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	}
	return status.Error(codes.Unknown, err.Error())
}

func detailed(code codes.Code, err error, detail protoadapt.MessageV1) error {
	s := status.New(code, err.Error())
	if with, failed := s.WithDetails(detail); failed == nil {
		s = with
	}
	return s.Err()
}

// Refusal is what the server meant: a *Redirect, a *yr.Error, or nil if err says
// nothing but that no answer came, so that somebody else may be asked.
func Refusal(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return nil
	}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *masterpb.Redirect:
			return &Redirect{Leader: d.GetLeader()}
		case *masterpb.Failure:
			return &yr.Error{Op: d.GetOp(), Code: yr.Code(d.GetCode()), Msg: d.GetMessage()}
		}
	}
	return nil
}
