package agent

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

const (
	// leastUsagePeriod is the shortest period of reports that a master can ask for: measuring must stay cheap.
	leastUsagePeriod = time.Second
	// usageTime limits one measurement.
	usageTime = 10 * time.Second
)

// reportUsage sends what the node and its pods use, at once and then every period, as long as the session stands. A report is not sent
// again: the next one replaces it.
func (a *Agent) reportUsage(ctx context.Context, s *session, every time.Duration) error {
	every = max(every, leastUsagePeriod)
	for first := true; ; first = false {
		within, cancel := context.WithTimeout(ctx, usageTime)
		report, next := a.usage.Report(within, every)
		cancel()
		encoded, err := proto.Marshal(report)
		if err != nil {
			return err
		}
		if err := s.send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Usage{Usage: encoded}}); err != nil {
			if errors.Is(err, io.EOF) {
				<-ctx.Done() // the receiver gets the reason
			}
			return err
		}
		if first { // workers that connect together report apart
			next = next/2 + rand.N(next/2)
		}
		select {
		case <-time.After(next):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
