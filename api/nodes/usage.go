package nodes

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/usage"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// leastUsagePause is the shortest time between two reports of usage of a session: those that come earlier are not looked at.
const leastUsagePause = time.Second

// usagePeriod is how often workers are asked to report what they use, in milliseconds.
func (s *Server) usagePeriod() uint32 {
	if s.Usage == nil {
		return 0
	}
	return uint32(usage.Period.Milliseconds())
}

// takeUsage keeps a report of what the worker's node and pods use. One that is refused has no effect, and the session goes on.
func (s *session) takeUsage(report []byte) {
	if s.Usage == nil || time.Since(s.usageTaken) < leastUsagePause {
		return
	}
	s.usageTaken = time.Now()
	view := s.Client.View()
	err := s.Usage.Put(s.node, report, func(p *nodev1.PodUsage) bool {
		pod, ok := client.Get[*corev1.Pod](view, p.Namespace, p.Name)
		return ok && usage.Owns(pod, s.node, p)
	})
	if err != nil {
		s.log.Warn("a report of usage is refused", "error", err)
	}
}
