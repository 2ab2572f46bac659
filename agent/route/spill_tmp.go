package route

import (
	"yr/pkg/yr"
	"yr/store"
)

func (r *Router) restore(*store.Name[waiter], func(yr.Place, error)) {}
func (r *Router) makeRoom(uint64)                                    {}
func (r *Router) track(*store.Name[waiter])                          {}
