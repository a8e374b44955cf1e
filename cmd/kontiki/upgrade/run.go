package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kontiki/kontiki/internal/pause"
)

// Options say what is upgraded, to what, and how.
type Options struct {
	Cluster Cluster
	// Version is what every host runs at the end.
	Version string
	// Replace makes a host run the program of that version. When it returns the program may still be starting.
	Replace func(ctx context.Context, h Host) error
	// Patience is how long a host may take to come back.
	Patience time.Duration
	// AllowInterruption accepts that the masters have no majority while one of them restarts.
	AllowInterruption bool
	// Out is told of each step.
	Out io.Writer
}

const (
	// interval is between two looks at the cluster.
	interval = time.Second
	// settling is how long a state lasts that passes by itself, as an election.
	settling = 30 * time.Second
	// callLimit is for one question to the cluster.
	callLimit = 10 * time.Second
)

// Run upgrades the hosts that do not run the version. It ends with the first that does not come back well.
func Run(ctx context.Context, o Options) error {
	count := 0
	for {
		s, next, err := o.fit(ctx)
		if err != nil {
			return err
		}
		if next == nil {
			if count == 0 {
				fmt.Fprintf(o.Out, "All hosts run %s already.\n", o.Version)
			} else {
				fmt.Fprintf(o.Out, "%d host(s) upgraded: all run %s.\n", count, o.Version)
			}
			return nil
		}
		if next.Leads {
			if to, ok := s.transferTo(o.Version); ok {
				fmt.Fprintf(o.Out, "%s leads: handing leadership over to %s\n", next.Name, to)
				if err := o.within(ctx, func(ctx context.Context) error { return o.Cluster.Transfer(ctx, to) }); err != nil {
					return fmt.Errorf("stopped before %s: hand leadership over to %s: %w", next.Name, to, err)
				}
				continue // another may lead now, whichever was wanted
			}
		}
		if err := o.one(ctx, *next); err != nil {
			return err
		}
		count++
	}
}

// fit waits until the cluster can spare a host, and returns the next one; nil if all are done.
func (o Options) fit(ctx context.Context) (s state, next *Host, err error) {
	err = o.await(ctx, settling, func(ctx context.Context) error {
		if s, err = look(ctx, o.Cluster); err != nil {
			return err
		}
		next = nil
		if left := s.remaining(o.Version); len(left) > 0 {
			next = &left[0]
			if problems := s.unfit(*next, o.AllowInterruption); len(problems) > 0 {
				return fmt.Errorf("stopped before %s: the cluster must be well before a host is upgraded:\n  - %s", next.Name, strings.Join(problems, "\n  - "))
			}
		}
		return nil
	})
	return s, next, err
}

// one upgrades a host and waits for it.
func (o Options) one(ctx context.Context, h Host) error {
	var before pods
	if err := o.within(ctx, func(ctx context.Context) (err error) {
		before, err = podsOf(ctx, o.Cluster, h)
		return err
	}); err != nil {
		return fmt.Errorf("stopped before %s: its pods: %w", h.Name, err)
	}
	began := time.Now()
	fmt.Fprintf(o.Out, "%s (%s): %s -> %s\n", h.Name, h.Role, h.Version, o.Version)
	replacing, cancel := context.WithTimeout(ctx, o.Patience)
	err := o.Replace(replacing, h)
	cancel()
	if err != nil {
		return stopped(h, fmt.Errorf("its program could not be replaced: %w", err))
	}
	var committed uint64
	var gone int
	err = o.await(ctx, o.Patience, func(ctx context.Context) error {
		s, err := look(ctx, o.Cluster)
		if err != nil {
			return err
		}
		if committed == 0 {
			committed = s.status.CommitIndex
		}
		if err := s.away(h, o.Version, committed); err != nil {
			return err
		}
		after, err := podsOf(ctx, o.Cluster, h)
		if err != nil {
			return err
		}
		gone, err = before.compare(after)
		return err
	})
	if errors.Is(err, errRestarted) {
		return stopped(h, fmt.Errorf("it came back, but %w", err))
	}
	if err != nil {
		return stopped(h, fmt.Errorf("it did not come back well within %s: %w", o.Patience, err))
	}
	fmt.Fprintf(o.Out, "%s is back after %s%s\n", h.Name, time.Since(began).Round(100*time.Millisecond), before.say(gone))
	return nil
}

// stopped is the error that ends an upgrade at a host.
func stopped(h Host, err error) error {
	return fmt.Errorf("stopped at %s: %w\nNo other host was touched. See to this one (its old program still works with the others), then run the same command again: it goes on with what is left", h.Name, err)
}

// errRestarted is an error that waiting does not mend.
var errRestarted = errors.New("containers were restarted")

// await asks until there is no error, or the time is over.
func (o Options) await(ctx context.Context, within time.Duration, ask func(ctx context.Context) error) error {
	deadline := time.Now().Add(within)
	for {
		err := o.within(ctx, ask)
		if err == nil || errors.Is(err, errRestarted) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return err
		}
		pause.For(ctx, interval)
	}
}

func (o Options) within(ctx context.Context, ask func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return ask(ctx)
}
