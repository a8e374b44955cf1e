package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"

	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/cluster/pki"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

const (
	followPause, followPauseMax = 100 * time.Millisecond, 2 * time.Second
	// renewBound is the time limit of one request for new certificates, renewAgain the shortest pause after a failed one.
	renewBound, renewAgain = 10 * time.Second, 200 * time.Millisecond
	// goodbyeBound is how long a worker that stops waits for the master to receive its announcement.
	goodbyeBound = 500 * time.Millisecond
	// firstWord is how long RunGossip waits for a master to say whether workers gossip.
	firstWord = 2 * time.Second
)

// Run keeps the identity up to date until the context ends: it follows any one master, takes over changed CAs and keys, and renews
// the certificates. Everything is on disk before it is used; open connections stay open.
func (w *Identity) Run(ctx context.Context) error {
	next, failures := rand.IntN(1<<16), 0
	for ctx.Err() == nil {
		masters := join.MergeAddresses(w.Masters(), w.cfg.Join, "")
		if len(masters) == 0 {
			return errors.New("no master's address is known")
		}
		began := time.Now()
		err := w.follow(ctx, masters[next%len(masters)])
		if ctx.Err() != nil {
			break
		}
		w.cfg.Logger.Debug("stopped following a master", "master", masters[next%len(masters)], "error", err)
		next++
		if time.Since(began) > time.Second {
			failures = 0
			continue
		}
		if failures++; failures%len(masters) == 0 {
			pause := min(followPause<<min(failures/len(masters), 6), followPauseMax)
			select {
			case <-time.After(pause/2 + rand.N(pause)):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// follow follows one master until the stream ends.
func (w *Identity) follow(ctx context.Context, address string) error {
	conn, err := w.Connect(address)
	if err != nil {
		return err
	}
	defer conn.Close()
	life, end := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx, to announce that the worker stops
	defer end()
	stream, err := clusterv1.NewTrustServiceClient(conn).Follow(life)
	if err != nil {
		return err
	}
	if err := stream.Send(w.report(false)); err != nil {
		return err
	}
	answers, ended := make(chan *clusterv1.FollowResponse), make(chan error, 1)
	go func() { // returns when the stream ends, which ends with life
		for {
			answer, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case answers <- answer:
			case <-life.Done():
				ended <- life.Err()
				return
			}
		}
	}()
	defer func() { end(); <-ended }()
	renew := time.NewTimer(w.renewIn())
	defer renew.Stop()
	var latest *clusterv1.FollowResponse
	for {
		select {
		case latest = <-answers:
			if err := w.follows(latest); err != nil {
				w.cfg.Logger.Error("the master's update could not be stored", "error", err)
				return err
			}
			w.once.Do(func() { close(w.heard) })
		case <-renew.C:
		case err := <-ended:
			ended <- err // for the defer
			return err
		case <-ctx.Done():
			w.sayGoodbye(stream, ended)
			return ctx.Err()
		}
		wait := w.renewIn()
		if w.due(latest) {
			if err := w.renew(ctx, conn, latest.GetRenewal()); err != nil {
				w.cfg.Logger.Warn("the worker's certificates could not be renewed", "valid_for", time.Until(w.Client().Leaf.NotAfter).Round(time.Second), "error", err)
				wait = max(renewAgain, min(time.Until(w.Client().Leaf.NotAfter)/20, time.Hour))
			} else {
				w.cfg.Logger.Info("the worker's certificates were renewed", "valid_until", w.Client().Leaf.NotAfter)
				wait = w.renewIn()
			}
		}
		renew.Reset(wait)
		if err := stream.Send(w.report(false)); err != nil {
			return err
		}
	}
}

func (w *Identity) sayGoodbye(stream clusterv1.TrustService_FollowClient, ended chan error) {
	if stream.Send(w.report(true)) != nil || stream.CloseSend() != nil {
		return
	}
	timer := time.NewTimer(goodbyeBound)
	defer timer.Stop()
	select {
	case err := <-ended:
		ended <- err
	case <-timer.C:
	}
}

// report returns what this worker has, for the master.
func (w *Identity) report(leaving bool) *clusterv1.FollowRequest {
	state := w.state.Load()
	r := &clusterv1.FollowRequest{
		Generation: state.Generation, Issuer: state.issuer(), Renewal: state.Renewal, NotAfter: state.client.Leaf.NotAfter.Unix(), Leaving: leaving,
	}
	if len(state.Addresses) > 0 {
		r.Address = state.Addresses[0]
	}
	return r
}

// follows takes over what a master sent. A master that is behind cannot undo what another one sent.
func (w *Identity) follows(r *clusterv1.FollowResponse) error {
	if len(r.CaCertificates) == 0 || len(r.GossipKeys) == 0 {
		return errors.New("the master sent no CA or no gossip key")
	}
	return w.change(func(d *Document) error {
		if r.Generation >= d.Generation {
			d.trust(r.CaCertificates, r.GossipKeys)
			d.Generation = r.Generation
		}
		d.MastersGossip = !r.WorkersGossip
		if len(r.Masters) > 0 {
			d.Masters = r.Masters
		}
		if len(r.Gossip) > 0 {
			d.GossipSeeds = r.Gossip
		}
		return nil
	})
}

// change changes the document, first on disk.
func (w *Identity) change(f func(*Document) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	changed := *w.state.Load().Document
	if err := f(&changed); err != nil {
		return err
	}
	if err := changed.save(w.cfg.Dir); err != nil {
		return err
	}
	return w.use(&changed)
}

// due says whether the certificates should be renewed now.
func (w *Identity) due(latest *clusterv1.FollowResponse) bool {
	state := w.state.Load()
	if latest == nil {
		return false
	}
	return time.Now().After(pki.RenewAt(state.client.Leaf)) || latest.Renewal > state.Renewal ||
		latest.Generation >= state.Generation && latest.Issuer != state.issuer()
}

// renewIn returns the time until the next renewal: at two thirds of the certificate's lifetime plus a random delay, so that workers
// which joined together do not renew together.
func (w *Identity) renewIn() time.Duration {
	leaf := w.Client().Leaf
	at := pki.RenewAt(leaf)
	return max(renewAgain, time.Until(at.Add(rand.N(max(leaf.NotAfter.Sub(at)/8, 1)))))
}

// renew requests new certificates for the same key from a master.
func (w *Identity) renew(ctx context.Context, conn *grpc.ClientConn, renewal uint64) error {
	ctx, cancel := context.WithTimeout(ctx, renewBound)
	defer cancel()
	csr, err := pki.RequestFor(w.state.Load().Key, w.Name)
	if err != nil {
		return err
	}
	response, err := clusterv1.NewWorkerServiceClient(conn).Renew(ctx, &clusterv1.RenewRequest{Csr: csr, Addresses: w.cfg.Addresses})
	if err != nil {
		return err
	}
	return w.change(func(d *Document) error {
		d.take(response, w.cfg.Addresses)
		d.Renewal = max(d.Renewal, renewal)
		return nil
	})
}

// RenewAnywhere tries one master after the other.
func (w *Identity) RenewAnywhere(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*join.DialBound)
	defer cancel()
	var failures []error
	for _, address := range join.MergeAddresses(w.Masters(), w.cfg.Join, "") {
		conn, err := w.Connect(address)
		if err != nil {
			return err
		}
		err = w.renew(ctx, conn, 0)
		conn.Close()
		if err == nil {
			return nil
		}
		failures = append(failures, fmt.Errorf("%s: %w", address, err))
	}
	return errors.Join(failures...)
}

// RunGossip takes part in gossip while workers should, until the context ends. It fills in the keys and seeds of the configuration
// from the identity, and updates them.
func (w *Identity) RunGossip(ctx context.Context, cfg gossip.Config) error {
	cfg.Seeds = func() []string { return w.state.Load().GossipSeeds }
	// Whether workers gossip is known to a master; if none answers in time, what a master sent last applies.
	timer := time.NewTimer(firstWord)
	defer timer.Stop()
	select {
	case <-w.heard:
	case <-timer.C:
	case <-ctx.Done():
		return nil
	}
	var g *gossip.Gossip
	defer func() {
		if g != nil {
			_ = g.Close() // if the announcement cannot be sent, the others detect the absence
		}
	}()
	for {
		state := w.state.Load()
		var err error
		switch {
		case state.MastersGossip && g != nil:
			cfg.Logger.Info("leaving gossip: only masters gossip now")
			_ = g.Close()
			g = nil
		case !state.MastersGossip && g == nil:
			cfg.Keys = state.GossipKeys
			if g, err = gossip.Start(cfg); err != nil {
				return err
			}
		case g != nil:
			if err := g.SetKeys(state.GossipKeys); err != nil {
				return err
			}
		}
		select {
		case <-state.changed:
		case <-ctx.Done():
			return nil
		}
	}
}
