package devcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// LogIndex returns the last index of any master's log: it grows with every command.
func (c *Cluster) LogIndex() (last uint64, err error) {
	out, err := c.Run("cluster", "status", "-o", "json")
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	var status struct {
		Members []struct{ LastIndex uint64 }
	}
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&status); err != nil {
		return 0, fmt.Errorf("cluster status: %w", err)
	}
	for _, m := range status.Members {
		last = max(last, m.LastIndex)
	}
	if last == 0 {
		return 0, errors.New("no master says what the last index of its log is")
	}
	return last, nil
}

// reported returns when each node was measured that the metrics API knows.
func (c *Cluster) reported(ctx context.Context) (map[string]time.Time, error) {
	data, err := c.Set.RESTClient().Get().AbsPath("/apis/metrics.k8s.io/v1beta1/nodes").SetHeader("Accept", "application/json").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct {
			Metadata  struct{ Name string }
			Timestamp time.Time
		}
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, err
	}
	times := map[string]time.Time{}
	for _, item := range list.Items {
		times[item.Metadata.Name] = item.Timestamp
	}
	return times, nil
}

// CommandsBesideReports waits until each of the workers, of whom there are so many, has reported what it uses at least twice more. It returns how many reports that
// were, and by how much the log grew meanwhile.
func (c *Cluster) CommandsBesideReports(ctx context.Context, workers int) (reports int, commands uint64, err error) {
	const rounds = 2
	before, err := c.LogIndex()
	if err != nil {
		return 0, 0, err
	}
	last, counts := map[string]time.Time{}, map[string]int{}
	for {
		now, err := c.reported(ctx)
		if err != nil {
			return 0, 0, err
		}
		done := 0
		for name, at := range now {
			if then, ok := last[name]; ok && at.After(then) {
				counts[name]++
				reports++
			}
			last[name] = at
			if counts[name] >= rounds {
				done++
			}
		}
		if done >= workers {
			break
		}
		select {
		case <-time.After(time.Second): // less than the time between two reports of a worker
		case <-ctx.Done():
			return 0, 0, fmt.Errorf("%d of %d workers have reported %d times: %w", done, workers, rounds, ctx.Err())
		}
	}
	after, err := c.LogIndex()
	return reports, after - before, err
}
