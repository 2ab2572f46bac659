package launch

// A runtime knows how processes of one language come to be. Python has a
// template; a language whose programs start fast (C++) has a "template" that is
// the program that starts them, or a runtime that answers orders itself.
type runtime interface {
	// origin says which template makes the workers of spec.
	origin(spec Spec) origin

	// order is what the template is told to make the worker of spec.
	order(spec Spec) order

	// explain turns the failure of a program to become a template into what a user can do.
	explain(f failure) error
}

// An origin is what a template is made from. Equal keys fork interchangeable workers.
type origin struct {
	key      string
	ordinary bool     // no special environment: the template is kept although idle
	programs []string // tried in order; the first that comes up is the one
	args     func(preload bool) []string
	env      []string
}

// An order describes one worker to the template, in JSON.
type order struct {
	Worker      string            `json:"worker"`
	Token       string            `json:"token"`
	Socket      string            `json:"socket"`
	Out         string            `json:"out"`
	Err         string            `json:"err"`
	Env         map[string]string `json:"env"`
	Dir         string            `json:"dir"`
	FallbackDir string            `json:"fallback_dir"`
	Paths       []string          `json:"paths"`
}

// A failure is a program that did not become a template.
type failure struct {
	program string
	why     string // "exit code 1", "no such file"
	words   string // the end of what it wrote to standard error
	killed  bool   // a signal ended it: another try may go well
}
