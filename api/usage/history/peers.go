package history

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/kontiki/kontiki/internal/contain"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

const (
	// fillTime limits reading from one other master.
	fillTime = 30 * time.Second
	// perMessage is how many series are in a message: about 200 kB.
	perMessage = 128
	maxName    = 253
)

// Register registers the service with which other masters read what this one has.
func (k *Keeper) Register(registrar grpc.ServiceRegistrar) {
	clusterv1.RegisterUsageHistoryServiceServer(registrar, historyService{keeper: k})
}

type historyService struct {
	clusterv1.UnimplementedUsageHistoryServiceServer
	keeper *Keeper
}

// ReadUsageHistory implements UsageHistoryService.
func (s historyService) ReadUsageHistory(_ *clusterv1.ReadUsageHistoryRequest, stream clusterv1.UsageHistoryService_ReadUsageHistoryServer) error {
	k := s.keeper
	k.mu.Lock()
	subjects := make([]subject, 0, len(k.all))
	for s := range k.all {
		subjects = append(subjects, s)
	}
	k.mu.Unlock()
	for len(subjects) > 0 {
		n := min(perMessage, len(subjects))
		if err := stream.Send(&clusterv1.ReadUsageHistoryResponse{Series: k.encoded(subjects[:n])}); err != nil {
			return err
		}
		subjects = subjects[n:]
	}
	return nil
}

// encoded returns those of some series that are still kept.
func (k *Keeper) encoded(subjects []subject) (out []*clusterv1.UsageSeries) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range subjects {
		if have := k.all[s]; have != nil {
			out = append(out, &clusterv1.UsageSeries{Of: s.of, Namespace: s.namespace, NamespaceUid: s.namespaceUID, Kind: s.kind, Name: s.name, Uid: s.uid, Container: s.container,
				First: have.first, Last: have.last, Points: have.marshal()})
		}
	}
	return out
}

// fillFromOthers takes over what other masters have, and says whether one of them answered.
func (k *Keeper) fillFromOthers(ctx context.Context) (filled bool) {
	if k.Masters == nil {
		return true
	}
	for _, address := range k.Masters() {
		if address == k.Own {
			continue
		}
		err := contain.Run(func() error { return k.fillFrom(ctx, address) })
		if err != nil && ctx.Err() == nil {
			k.Log.Debug("the history of usage cannot be read from another master", "master", address, "error", err)
		}
		filled = filled || err == nil
	}
	return filled
}

func (k *Keeper) fillFrom(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, fillTime)
	defer cancel()
	conn, err := k.Connect(address)
	if err != nil {
		return err
	}
	stream, err := clusterv1.NewUsageHistoryServiceClient(conn).ReadUsageHistory(ctx, &clusterv1.ReadUsageHistoryRequest{})
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, s := range m.Series {
			if err := k.take(s, time.Now()); err != nil {
				return err
			}
		}
	}
}

// take fills a series with what another master has of it.
func (k *Keeper) take(s *clusterv1.UsageSeries, now time.Time) error {
	for _, name := range []string{s.Of, s.Namespace, s.NamespaceUid, s.Kind, s.Name, s.Uid, s.Container} {
		if len(name) > maxName {
			return errors.New("a name is too long")
		}
	}
	// A clock that is ahead would make this master refuse its own points.
	if newest := now.Unix()/60 + 1; s.Last > newest || s.Last < newest-int64(kept/time.Minute) {
		return nil
	}
	theirs, err := unmarshal(s.First, s.Last, s.Points)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	of := subject{of: s.Of, namespace: s.Namespace, namespaceUID: s.NamespaceUid, kind: s.Kind, name: s.Name, uid: s.Uid, container: s.Container}
	switch have := k.all[of]; {
	case have != nil:
		have.fill(theirs)
	case len(k.all) < MostSeries:
		k.all[of] = theirs
	}
	return nil
}
