package client

import "slices"

// MasterAddresses are where masters are reached, as far as this node knows.
func (c *Client) MasterAddresses() []string {
	c.leaders.mu.Lock()
	defer c.leaders.mu.Unlock()
	return slices.Clone(c.leaders.masters)
}
