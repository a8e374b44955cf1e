package rpc

import "time"

// CodeOfReason is the table of codes.
var CodeOfReason = codeOfReason

// SetLimits shortens the time after which streams that are not read end. For tests, before the server serves.
func (s *Server) SetLimits(stall, linger time.Duration) {
	s.limits.stall, s.limits.linger = stall, linger
}

// SetWatches shortens the watches' lifetime and the interval of their bookmarks. For tests, before the server serves.
func (s *Server) SetWatches(shortest, bookmark time.Duration) {
	s.limits.watch, s.limits.bookmark = shortest, bookmark
}
