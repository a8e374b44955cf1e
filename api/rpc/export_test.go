package rpc

import "time"

// CodeOfReason is the table of codes.
var CodeOfReason = codeOfReason

// SetLimits makes streams that are not read end sooner. For tests, before the server serves.
func (s *Server) SetLimits(stall, linger time.Duration) {
	s.limits.stall, s.limits.linger = stall, linger
}

// SetWatches makes watches end, and tell how far they are, sooner. For tests, before the server serves.
func (s *Server) SetWatches(shortest, bookmark time.Duration) {
	s.limits.watch, s.limits.bookmark = shortest, bookmark
}
