package cpu

// sse does the vector and floating point instructions of the 0F map.
func (c *CPU) sse(i *inst) bool { return c.ud() }
