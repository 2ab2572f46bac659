package durable

// What the state machine remembers of the past, in bounded amounts: history, for
// watches, and answers to named requests, for retries.

// turnHistory ends the young generation of history if it is large enough, and
// forgets the old one.
func (s *step) turnHistory() (bool, error) {
	m := &s.meta
	if m.revision-m.mark < generationRevisions && m.young < s.generation {
		return false, nil
	}
	m.compacted, m.mark, m.young = m.mark, m.revision, 0
	return true, s.batch.DeleteRange(s.keys.history(0, 0), s.keys.history(m.compacted+1, 0), nil)
}

// answered finds what a named request was told before.
func (s *step) answered(r request, out *outcome) (bool, error) {
	if s.meta.tickets > r.seen+keptAnswers {
		// It may have been applied and forgotten since.
		out.err = detail(errForgotten, "the request was first sent %d requests ago, %d are remembered", s.meta.tickets-r.seen, keptAnswers)
		return true, nil
	}
	a, known, err := load(s.batch, s.keys.answer(r), decodeAnswer)
	if known {
		out.result = Result{OK: a.ok, Revision: a.revision}
	}
	return known, err
}

func (s *step) remember(r request, out *outcome) error {
	ticket := s.meta.tickets
	s.meta.tickets++
	a := answer{ok: out.result.OK, revision: out.result.Revision}
	key := s.keys.answer(r)
	if err := s.batch.Set(key, a.encode(), nil); err != nil {
		return err
	}
	if err := s.batch.Set(s.keys.ticket(ticket), rest(key), nil); err != nil {
		return err
	}
	// A step more than keptAnswers is kept, so that the oldest one promised is there.
	if ticket%ticketStep != 0 || ticket < keptAnswers+2*ticketStep {
		return nil
	}
	return s.forget(ticket-keptAnswers-2*ticketStep, ticket-keptAnswers-ticketStep)
}

// forget drops the answers of tickets from <= ticket < to.
func (s *step) forget(from, to uint64) error {
	lower, upper := s.keys.ticket(from), s.keys.ticket(to)
	err := scan(s.batch, lower, upper, func(_, value []byte) (bool, error) {
		return true, s.batch.Delete(append(s.keys.table(tableAnswer), value...), nil)
	})
	if err != nil {
		return err
	}
	return s.batch.DeleteRange(lower, upper, nil)
}
