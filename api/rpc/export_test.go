package rpc

import "time"

// SetLimits makes streams that are not read end sooner. For tests, before the server serves.
func (s *Server) SetLimits(stall, linger time.Duration) { s.limits = limits{stall, linger} }
