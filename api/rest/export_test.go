package rest

import "time"

// SetStall changes how long responses wait for their clients to read.
func (s *Server) SetStall(d time.Duration) { s.stall = d }
