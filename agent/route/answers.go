package route

import "yr/pkg/yr"

// answers are the last results that were sent to another node, for when its
// daemon crashes before it has passed them on. Bounded; the oldest go first.
type answers struct {
	list  []answer
	bytes int
}

type answer struct {
	id    yr.ID
	frame []byte
}

// The bounds of answers, those of a worker's own last results.
const (
	maxAnswers     = 4096
	maxAnswerBytes = 1 << 20
)

// add is hot: once per result that goes to another node.
func (a *answers) add(id yr.ID, frame []byte) {
	a.list = append(a.list, answer{id, frame})
	a.bytes += len(frame)
	drop := 0
	for len(a.list)-drop > maxAnswers || a.bytes > maxAnswerBytes && drop < len(a.list) {
		a.bytes -= len(a.list[drop].frame)
		a.list[drop] = answer{}
		drop++
	}
	a.list = a.list[drop:]
}

func (a *answers) find(id yr.ID) []byte {
	for i := len(a.list) - 1; i >= 0; i-- {
		if a.list[i].id == id {
			return a.list[i].frame
		}
	}
	return nil
}
