package session

import (
	"time"

	"yr/pkg/yr"
)

// Greeting is what a daemon tells the start command, once, through the pipe that
// it inherits as "starter": one line of JSON.
type Greeting struct {
	Ready    bool     `json:"ready"`
	Code     yr.Code  `json:"code,omitempty"`
	Error    string   `json:"error,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	Timing   []Step   `json:"timing,omitempty"`
}

// Step is one part of a start and when it was over, counted from the command.
type Step struct {
	Name string        `json:"name"`
	At   time.Duration `json:"at_ns"`
}
