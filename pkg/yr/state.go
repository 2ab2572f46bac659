package yr

// InstanceState is where an instance stands in its life. The numbers are
// openYuanrong's and appear in REST answers and metrics.
type InstanceState int32

// The states. An instance is made New, waits in Scheduling, is Creating while
// its constructor runs, and ends Exited (asked to), Fatal (could not go on) or
// Evicted (made room for another).
const (
	StateNew            InstanceState = 0
	StateScheduling     InstanceState = 1
	StateCreating       InstanceState = 2
	StateRunning        InstanceState = 3
	StateFailed         InstanceState = 4
	StateExiting        InstanceState = 5
	StateFatal          InstanceState = 6
	StateScheduleFailed InstanceState = 7
	StateExited         InstanceState = 8
	StateEvicting       InstanceState = 9
	StateEvicted        InstanceState = 10
	StateSubHealth      InstanceState = 11
	StateSuspend        InstanceState = 12
	StatePaused         InstanceState = 13
)

var stateNames = [...]string{
	"new", "scheduling", "creating", "running", "failed", "exiting", "fatal",
	"schedule_failed", "exited", "evicting", "evicted", "sub_health", "suspend", "paused",
}

func (s InstanceState) String() string {
	if s >= 0 && int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "unknown"
}

// Ended reports whether the instance will never run again.
func (s InstanceState) Ended() bool {
	return s == StateFatal || s == StateExited || s == StateEvicted || s == StateScheduleFailed
}

// Role says what a session is for.
type Role uint8

// The roles of a session.
const (
	RoleDriver Role = 1 // a user's program
	RoleWorker Role = 2 // a process that yr started to run user code
	RoleData   Role = 3 // a plain data client: keys, objects and streams only
	RoleNode   Role = 4 // another node's agent, over a link between nodes
)

func (r Role) String() string {
	switch r {
	case RoleDriver:
		return "driver"
	case RoleWorker:
		return "worker"
	case RoleData:
		return "data"
	case RoleNode:
		return "node"
	}
	return "unknown"
}

// Place is where a Blob lies in shared memory. Generation tells a recycled
// segment from the one that a stale place was made for.
type Place struct {
	Segment    uint32
	Generation uint32
	Offset     uint64
	Length     uint64
}
