package yr

import "time"

// The views are what lists, `yr why` and the HTTP interface show: plain copies,
// safe to keep, with one reason that a person can read wherever something waits.

// NodeView shows a machine.
type NodeView struct {
	ID        Node               `json:"id"`
	Tag       string             `json:"tag,omitempty"` // first characters of every ID that is born there
	Address   string             `json:"address"`       // host:port for other nodes and for HTTP
	Version   string             `json:"version,omitempty"`
	Master    bool               `json:"master"`
	Leader    bool               `json:"leader,omitempty"` // of the masters
	State     string             `json:"state"`            // "ready", "cordoned", "draining", "drained", "lost"
	Reason    string             `json:"reason,omitempty"` // of a state other than ready
	Capacity  map[string]float64 `json:"capacity"`
	Available map[string]float64 `json:"available"`
	Labels    map[string]string  `json:"labels,omitempty"`
	Workers   int                `json:"workers"`
	Store     StoreView          `json:"store"`
	Started   time.Time          `json:"started"`
}

// StoreView shows a node's shared memory, in bytes.
type StoreView struct {
	Capacity uint64 `json:"capacity"`
	Leased   uint64 `json:"leased"` // segments handed to sessions, full or not
	Live     uint64 `json:"live"`   // bytes of blobs somebody still refers to
	Warm     uint64 `json:"warm"`   // free segments kept with their pages
	Segments int    `json:"segments"`
	Objects  int    `json:"objects"`
	Inline   uint64 `json:"inline"` // bytes of small objects in the daemon's own memory
}

// InstanceView shows an instance, or a worker of a stateless pool (Function is then empty).
type InstanceView struct {
	ID        ID                 `json:"id"`
	Name      string             `json:"name,omitempty"`
	Namespace string             `json:"namespace,omitempty"`
	Class     string             `json:"class,omitempty"`
	Job       Job                `json:"job"`
	Tenant    Tenant             `json:"tenant"`
	Node      Node               `json:"node"`
	State     string             `json:"state"`
	Detached  bool               `json:"detached,omitempty"`
	Worker    string             `json:"worker,omitempty"` // names its log files, runtime-<worker>.out and .err
	PID       int                `json:"pid,omitempty"`
	Resources map[string]float64 `json:"resources"`
	Pending   int                `json:"pending"`
	Restarts  int                `json:"restarts"`
	Since     time.Time          `json:"since"`
	Reason    string             `json:"reason,omitempty"`
}

// CallView shows a call that has not ended.
type CallView struct {
	ID       ID        `json:"id"`
	Function string    `json:"function"`
	Job      Job       `json:"job"`
	Node     Node      `json:"node"`
	State    string    `json:"state"` // "waiting" (for arguments), "queued", "running"
	Worker   string    `json:"worker,omitempty"`
	Attempt  int       `json:"attempt"`
	Since    time.Time `json:"since"`
	Reason   string    `json:"reason"`
}

// ObjectView shows an object that somebody refers to.
type ObjectView struct {
	ID       ID     `json:"id"`
	Job      Job    `json:"job"`
	Node     Node   `json:"node,omitempty"`
	State    string `json:"state"` // "pending", "ready", "failed"
	Where    string `json:"where"` // "inline", "shm"
	Size     uint64 `json:"size"`
	Refs     int    `json:"refs"`
	Owner    string `json:"owner"`
	Contains int    `json:"contains"`
}

// Explanation answers `yr why`.
type Explanation struct {
	ID     string   `json:"id"`
	Kind   string   `json:"kind"`           // "call", "instance", "object", "node"
	Node   Node     `json:"node,omitempty"` // whose answer this is
	State  string   `json:"state"`
	Reason string   `json:"reason"`
	Trail  []string `json:"trail,omitempty"`  // what it waits for, and what that waits for
	Worker string   `json:"worker,omitempty"` // where it runs or ran; names the log files, also after its end
}
