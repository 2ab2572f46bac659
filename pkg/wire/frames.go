package wire

import "yr/pkg/yr"

// Call is a request to a function or an instance.
type Call struct {
	ID      yr.ID
	Target  uint32
	Returns uint8
	NVals   int // the first NVals dependencies are delivered by value
	Deps    IDs
	Method  []byte
	Args    []byte
	Tail    []byte // DecodeTail reads it
}

const callHead = 36

// AppendCall appends a CALL frame.
func AppendCall(dst []byte, flags uint8, c *Call) []byte {
	dst, at := begin(dst, CallType, flags, 0)
	dst = append(dst, c.ID[:]...)
	dst = le.AppendUint32(dst, c.Target)
	dst = le.AppendUint32(dst, uint32(len(c.Args)))   //nolint:gosec // bounded by MaxBody
	dst = le.AppendUint16(dst, uint16(c.Deps.Len()))  //nolint:gosec // bounded by MaxRefs
	dst = le.AppendUint16(dst, uint16(c.NVals))       //nolint:gosec // at most Deps.Len
	dst = le.AppendUint16(dst, uint16(len(c.Method))) //nolint:gosec // bounded by MaxMethod
	dst = append(dst, c.Returns, 0)
	dst = append(dst, c.Deps...)
	dst = append(dst, c.Method...)
	dst = append(dst, c.Args...)
	return finish(append(dst, c.Tail...), at)
}

// DecodeCall reads the body of a CALL frame into c.
//
// hot: once per call.
func DecodeCall(b []byte, c *Call) error {
	if len(b) < callHead {
		return malformed("a call is cut short: %d bytes, want at least %d", len(b), callHead)
	}
	c.ID = yr.ID(b[:yr.IDLen])
	c.Target = le.Uint32(b[20:])
	nargs, ndeps := int(le.Uint32(b[24:])), int(le.Uint16(b[28:]))*yr.IDLen
	c.NVals = int(le.Uint16(b[30:]))
	nmethod := int(le.Uint16(b[32:]))
	c.Returns = b[34]
	b = b[callHead:]
	switch {
	case c.NVals*yr.IDLen > ndeps:
		return malformed("a call delivers %d values but has %d dependencies", c.NVals, ndeps/yr.IDLen)
	case nmethod > MaxMethod:
		return malformed("a method name of %d bytes is over the limit of %d", nmethod, MaxMethod)
	case c.Returns > MaxReturns:
		return malformed("a call of %d results is over the limit of %d", c.Returns, MaxReturns)
	case len(b) < ndeps+nmethod+nargs:
		return malformed("a call is cut short: %d bytes of dependencies, method and arguments, want %d", len(b), ndeps+nmethod+nargs)
	}
	c.Deps, b = IDs(b[:ndeps:ndeps]), b[ndeps:]
	c.Method, b = b[:nmethod:nmethod], b[nmethod:]
	c.Args, c.Tail = b[:nargs:nargs], b[nargs:]
	return nil
}

// Task is a call as it is delivered to a worker. Encoding is split in two, so
// that the values of the dependencies need not be gathered first: AppendTask
// writes the head, the caller appends Values with AppendValue(bare), and
// EndTask writes the rest.
type Task struct {
	ID      yr.ID
	Target  uint32
	NVals   int
	Returns uint8
	Method  []byte
	Args    []byte
}

const taskHead = 36

// AppendTask begins a TASK frame; delivery numbers count from 1 for each worker.
// It returns the position that EndTask needs.
//
// hot: once per delivery.
func AppendTask(dst []byte, flags uint8, delivery uint64, t *Task) ([]byte, int) {
	dst, at := begin(dst, TaskType, flags, delivery)
	dst = append(dst, t.ID[:]...)
	dst = le.AppendUint32(dst, t.Target)
	dst = le.AppendUint32(dst, uint32(len(t.Args)))   //nolint:gosec // bounded by MaxBody
	dst = le.AppendUint16(dst, uint16(t.NVals))       //nolint:gosec // bounded by MaxRefs
	dst = le.AppendUint16(dst, uint16(len(t.Method))) //nolint:gosec // bounded by MaxMethod
	return append(dst, t.Returns, 0, 0, 0), at
}

// EndTask completes the frame that AppendTask began.
func EndTask(dst []byte, at int, t *Task, tail *Tail) []byte {
	dst = append(dst, t.Method...)
	dst = append(dst, t.Args...)
	return finish(AppendTail(dst, tail), at)
}

// EndTaskRaw is EndTask with a tail as it was received.
func EndTaskRaw(dst []byte, at int, t *Task, tail []byte) []byte {
	dst = append(dst, t.Method...)
	dst = append(dst, t.Args...)
	return finish(append(dst, tail...), at)
}

// TaskValues is the number of values in the body of a TASK frame, and TaskID its
// call, without decoding the rest; 0 and zero if it is cut short.
func TaskValues(b []byte) int {
	if len(b) < taskHead {
		return 0
	}
	return int(le.Uint16(b[28:]))
}

// TaskID is documented at TaskValues.
func TaskID(b []byte) yr.ID {
	if len(b) < taskHead {
		return yr.ID{}
	}
	return yr.ID(b[:yr.IDLen])
}

// DecodeTask reads the body of a TASK frame: the task, its values and its tail.
func DecodeTask(b []byte) (t Task, values []Value, tail []byte, err error) {
	if len(b) < taskHead {
		return t, nil, nil, malformed("a task is cut short: %d bytes, want at least %d", len(b), taskHead)
	}
	t.ID = yr.ID(b[:yr.IDLen])
	t.Target = le.Uint32(b[20:])
	nargs := int(le.Uint32(b[24:]))
	t.NVals = int(le.Uint16(b[28:]))
	nmethod := int(le.Uint16(b[30:]))
	t.Returns = b[32]
	b = b[taskHead:]
	for range t.NVals {
		var v Value
		if b, err = decodeValue(b, &v); err != nil {
			return t, nil, nil, err
		}
		values = append(values, v)
	}
	if len(b) < nmethod+nargs {
		return t, nil, nil, malformed("a task is cut short: %d bytes of method and arguments, want %d", len(b), nmethod+nargs)
	}
	t.Method, b = b[:nmethod:nmethod], b[nmethod:]
	t.Args = b[:nargs:nargs]
	return t, values, b[nargs:], nil
}

const resultHead = 24

// AppendResult appends a RESULT frame.
//
// hot: once per call.
func AppendResult(dst []byte, corr uint64, id yr.ID, values []Value) []byte {
	dst, at := begin(dst, ResultType, 0, corr)
	dst = append(dst, id[:]...)
	dst = append(dst, byte(len(values)), 0, 0, 0) //nolint:gosec // bounded by MaxReturns
	for i := range values {
		dst = AppendValue(dst, &values[i], false)
	}
	return finish(dst, at)
}

// DecodeResult reads the body of a RESULT frame, appending its values to into.
//
// hot: once per result.
func DecodeResult(b []byte, into []Value) (id yr.ID, values []Value, tail []byte, err error) {
	if len(b) < resultHead {
		return id, nil, nil, malformed("a result is cut short: %d bytes, want at least %d", len(b), resultHead)
	}
	id = yr.ID(b[:yr.IDLen])
	count := int(b[20])
	b = b[resultHead:]
	if count > MaxReturns {
		return id, nil, nil, malformed("a result of %d values is over the limit of %d", count, MaxReturns)
	}
	values = into
	for range count {
		var v Value
		if b, err = decodeValue(b, &v); err != nil {
			return id, nil, nil, err
		}
		values = append(values, v)
	}
	return id, values, b, nil
}

// AppendObject appends an OBJECT or PUT frame: an identifier and its value.
func AppendObject(dst []byte, t Type, flags uint8, id yr.ID, v *Value) []byte {
	dst, at := begin(dst, t, flags, 0)
	dst = append(dst, id[:]...)
	return finish(AppendValue(dst, v, false), at)
}

// DecodeObject reads the body of an OBJECT or PUT frame.
//
// hot: once per put.
func DecodeObject(b []byte, v *Value) (id yr.ID, tail []byte, err error) {
	if len(b) < yr.IDLen {
		return id, nil, malformed("an object is cut short: %d bytes", len(b))
	}
	id = yr.ID(b[:yr.IDLen])
	tail, err = decodeValue(b[yr.IDLen:], v)
	return id, tail, err
}

// AppendIDs appends a RETAIN, RELEASE, GET, EVICT or EVICTED frame.
func AppendIDs(dst []byte, t Type, corr uint64, ids []yr.ID) []byte {
	dst, at := begin(dst, t, 0, corr)
	dst = le.AppendUint32(dst, uint32(len(ids))) //nolint:gosec // bounded by MaxBody
	for i := range ids {
		dst = append(dst, ids[i][:]...)
	}
	return finish(dst, at)
}

// DecodeIDs reads the body of what AppendIDs appends.
func DecodeIDs(b []byte) (IDs, error) {
	if len(b) < 4 {
		return nil, malformed("a list of references is cut short")
	}
	n := int(le.Uint32(b)) * yr.IDLen
	if len(b)-4 < n {
		return nil, malformed("a list of %d references is cut short at %d bytes", n/yr.IDLen, len(b)-4)
	}
	return IDs(b[4 : 4+n]), nil
}

// AppendFreed appends a FREED frame.
func AppendFreed(dst []byte, places []yr.Place) []byte {
	dst, at := begin(dst, Freed, 0, 0)
	dst = le.AppendUint32(dst, uint32(len(places))) //nolint:gosec // bounded by MaxBody
	for _, p := range places {
		dst = AppendPlace(dst, p)
	}
	return finish(dst, at)
}

// DecodeFreed reads the body of a FREED frame.
func DecodeFreed(b []byte) ([]yr.Place, error) {
	if len(b) < 4 {
		return nil, malformed("a list of places is cut short")
	}
	n := int(le.Uint32(b))
	if b = b[4:]; len(b) < n*placeLen {
		return nil, malformed("a list of %d places is cut short at %d bytes", n, len(b))
	}
	places := make([]yr.Place, n)
	for i := range places {
		places[i] = decodePlace(b[i*placeLen:])
	}
	return places, nil
}

// AppendU64 appends a frame whose body is one u64 and, with reason >= 0, a u8
// (BLOCKED and YIELD).
func AppendU64(dst []byte, t Type, n uint64, reason int) []byte {
	dst, at := begin(dst, t, 0, 0)
	dst = le.AppendUint64(dst, n)
	if reason >= 0 {
		dst = append(dst, byte(reason)) //nolint:gosec // 1 or 2
	}
	return finish(dst, at)
}

// DecodeBlocked reads the body of a BLOCKED frame.
func DecodeBlocked(b []byte) (after uint64, err error) {
	if len(b) < 8 {
		return 0, malformed("a BLOCKED frame has 8 bytes, not %d", len(b))
	}
	return le.Uint64(b), nil
}

// DecodeYield reads the body of a YIELD frame.
func DecodeYield(b []byte) (after uint64, reason uint8, err error) {
	if len(b) < 9 {
		return 0, 0, malformed("a YIELD frame has 9 bytes, not %d", len(b))
	}
	return le.Uint64(b), b[8], nil
}

// AppendCredit appends a CREDIT frame.
func AppendCredit(dst []byte, window uint32) []byte {
	dst, at := begin(dst, Credit, 0, 0)
	return finish(le.AppendUint32(dst, window), at)
}

// AppendReturn appends a RETURN frame.
func AppendReturn(dst []byte, segment, generation uint32) []byte {
	dst, at := begin(dst, Return, 0, 0)
	return finish(le.AppendUint32(le.AppendUint32(dst, segment), generation), at)
}

// DecodeReturn reads the body of a RETURN frame.
func DecodeReturn(b []byte) (segment, generation uint32, err error) {
	if len(b) < 8 {
		return 0, 0, malformed("a RETURN frame has 8 bytes, not %d", len(b))
	}
	return le.Uint32(b), le.Uint32(b[4:]), nil
}
