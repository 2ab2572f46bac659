package peer

import (
	"testing"
)

func TestFramesReachThePeerInOrder(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	ab, ba := join(a, b)
	say(ab, "one", "two")
	say(ab, "three")
	b.expect("a", "one", "two", "three")
	say(ba, "four")
	a.expect("b", "four")
}
