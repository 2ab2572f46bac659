package client

// Others is how many other nodes are known here to live. 0 may be behind the
// times by a report.
func (c *Client) Others() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.view.nodes)
	if _, own := c.view.nodes[c.options.Machine.ID]; own {
		n--
	}
	return n
}
