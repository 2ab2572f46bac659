//go:build race

package supervise

// The race detector multiplies memory.
const raceDetector = true
