package nodes

import (
	"context"
	"time"

	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

const (
	// balancePeriod is how often a master compares its number of workers with the others'. Each time it moves one worker, or a
	// twentieth of the difference if that is more, so that a master that comes back gets workers gradually.
	balancePeriod = 10 * time.Second
	balanceShare  = 20
)

// Balance asks workers to move to masters that have fewer, until the context ends. Two masters whose numbers differ by one count as
// balanced.
func (s *Server) Balance(ctx context.Context, self string, fewest func(but string) (address string, workers int, ok bool)) error {
	ticker := time.NewTicker(balancePeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		to, theirs, ok := fewest(self)
		more := s.attendance.count() - theirs
		if !ok || more < 2 {
			continue
		}
		for _, session := range s.attendance.some(max(1, more/balanceShare)) {
			session.log.Info("asking the worker to move to a master with fewer", "master", to)
			// If the message cannot be sent, the session is about to end.
			_ = session.send(&nodev1.SessionResponse{Message: &nodev1.SessionResponse_Move{Move: &nodev1.Move{Master: to}}})
		}
	}
}
