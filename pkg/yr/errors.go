package yr

import (
	"errors"
	"fmt"
)

// Code is the public number of an error. Programs written for openYuanrong
// compare these numbers, so they never change.
type Code int32

// The codes that the system itself produces.
const (
	OK                  Code = 0
	ParamInvalid        Code = 1001 // a parameter is malformed
	ResourceNotEnough   Code = 1002 // nothing is free now, but something could be
	InstanceNotFound    Code = 1003
	InstanceDuplicated  Code = 1004
	RateLimited         Code = 1005 // a bounded queue is full
	ResourceConfigError Code = 1006 // no node can ever hold this
	InstanceExited      Code = 1007
	InstanceEvicted     Code = 1013
	Unauthorized        Code = 1014
	ScheduleCancelled   Code = 1017
	UserCodeLoad        Code = 2001 // a function or class could not be loaded in the worker
	UserException       Code = 2002 // user code raised
	WorkerLost          Code = 3001 // the worker died while it ran the call
	Communication       Code = 3002 // a connection or a daemon was lost while the call was in flight
	Internal            Code = 3003 // also: the call was cancelled
	InitUsage           Code = 4001
	InitConnection      Code = 4002
	Deserialization     Code = 4003
	GetTimeout          Code = 4005
	FunctionUsage       Code = 4006
	CreateUsage         Code = 4007
	InvokeUsage         Code = 4008
	KillUsage           Code = 4009
	StoreFull           Code = 4202 // shared memory limit reached
	DiskFailed          Code = 4203
	DiskFull            Code = 4204
	KeyExists           Code = 4206
	ObjectNotFound      Code = 4299 // released, lost, or of another job
	DependencyFailed    Code = 4306
	Finalized           Code = 9000
	Interrupted         Code = 9008
	DeadlineExceeded    Code = 9010 // the call's own deadline passed before it ended
	VersionMismatch     Code = 9012 // peers share no protocol version
	FrameMalformed      Code = 9013 // a frame broke the layout or a limit
	AlreadyRunning      Code = 9014 // the session or data directory belongs to a live daemon
)

var codeNames = map[Code]string{
	OK: "OK", ParamInvalid: "PARAM_INVALID", ResourceNotEnough: "RESOURCE_NOT_ENOUGH",
	InstanceNotFound: "INSTANCE_NOT_FOUND", InstanceDuplicated: "INSTANCE_DUPLICATED",
	RateLimited: "INVOKE_RATE_LIMITED", ResourceConfigError: "RESOURCE_CONFIG_ERROR",
	InstanceExited: "INSTANCE_EXITED", InstanceEvicted: "INSTANCE_EVICTED",
	Unauthorized: "AUTHORIZATION", ScheduleCancelled: "SCHEDULE_CANCELLED",
	UserCodeLoad: "USER_CODE_LOAD", UserException: "USER_FUNCTION_EXCEPTION",
	WorkerLost: "REQUEST_BETWEEN_RUNTIME_BUS", Communication: "INNER_COMMUNICATION",
	Internal: "INNER_SYSTEM_ERROR", InitUsage: "INCORRECT_INIT_USAGE",
	InitConnection: "INIT_CONNECTION_FAILED", Deserialization: "DESERIALIZATION_FAILED",
	GetTimeout: "GET_OPERATION_FAILED", FunctionUsage: "INCORRECT_FUNCTION_USAGE",
	CreateUsage: "INCORRECT_CREATE_USAGE", InvokeUsage: "INCORRECT_INVOKE_USAGE",
	KillUsage: "INCORRECT_KILL_USAGE", StoreFull: "SHARED_MEMORY_LIMITED",
	DiskFailed: "OPERATE_DISK", DiskFull: "INSUFFICIENT_DISK", KeyExists: "KEY_ALREADY_EXIST",
	ObjectNotFound: "DATASYSTEM_FAILED", DependencyFailed: "DEPENDENCY_FAILED",
	Finalized: "FINALIZED", Interrupted: "CLIENT_TERMINAL_KILLED",
	DeadlineExceeded: "REQ_TIMEOUT", VersionMismatch: "VERSION_MISMATCH",
	FrameMalformed: "FRAME_MALFORMED", AlreadyRunning: "ALREADY_RUNNING",
}

func (c Code) String() string {
	if s, ok := codeNames[c]; ok {
		return s
	}
	return fmt.Sprintf("CODE_%d", int32(c))
}

// Error is an error with a public code. Op says what was being done, Msg what
// stood in the way and what to do about it, Err the cause, if there is one.
type Error struct {
	Op   string
	Code Code
	Msg  string
	Err  error
}

// E makes an *Error. It is the one way to give an error a public code, and it
// is called where the mistake becomes visible to a user.
func E(op string, code Code, format string, args ...any) *Error {
	return &Error{Op: op, Code: code, Msg: fmt.Sprintf(format, args...)}
}

// Wrap gives err an operation and a code; the code of an *Error inside err wins.
func Wrap(op string, code Code, err error) error {
	if err == nil {
		return nil
	}
	if c := CodeOf(err); c != Internal {
		code = c
	}
	return &Error{Op: op, Code: code, Err: err}
}

func (e *Error) Error() string {
	s := e.Op
	if e.Msg != "" {
		s += ": " + e.Msg
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the public code of err: OK for nil, Internal if it carries none.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}
