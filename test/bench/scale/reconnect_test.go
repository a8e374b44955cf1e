package scale_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkReconnect kills a master that is not the leader, and reports how long it takes until all workers have a session with another
// one, and how many sessions began for each that was lost; then it starts the master again.
func BenchmarkReconnect(b *testing.B) {
	for range b.N {
		ctx := limited(b)
		leader, err := cluster.Leader()
		if err != nil {
			b.Fatal(err)
		}
		victim := masters[0]
		if victim == leader {
			victim = masters[1]
		}
		var others []string
		for _, m := range masters {
			if m != victim {
				others = append(others, m)
			}
		}
		open, before, err := sessions(others...)
		if err != nil {
			b.Fatal(err)
		}
		lost := hollow() - open
		begin := time.Now()
		if _, err := cluster.Run("dev", "kill", victim); err != nil { // kill -9
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if _, err := cluster.Run("dev", "start", victim); err != nil {
				b.Error(err)
			}
		})
		for open < hollow() {
			select {
			case <-time.After(20 * time.Millisecond): // logs of other processes: there is no event to wait for
			case <-ctx.Done():
				b.Fatalf("%d of %d workers have a session", open, hollow())
			}
			if open, _, err = sessions(others...); err != nil {
				b.Fatal(err)
			}
		}
		_, after, err := sessions(others...)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(lost), "lost")
		b.ReportMetric(time.Since(begin).Seconds(), "s-reconnected")
		b.ReportMetric(float64(after-before)/float64(max(1, lost)), "sessions/lost")
	}
}

// sessions counts in the logs of masters how many sessions are open, and how many have begun.
func sessions(of ...string) (open, begun int, err error) {
	for _, m := range of {
		log, err := os.ReadFile(filepath.Join(cluster.Dir, "logs", m+".log"))
		if err != nil {
			return 0, 0, err
		}
		n := bytes.Count(log, []byte(`msg="worker connected"`))
		begun, open = begun+n, open+n-bytes.Count(log, []byte(`msg="worker disconnected"`))
	}
	return open, begun, nil
}
