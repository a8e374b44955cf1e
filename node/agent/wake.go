package agent

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/proxy/hold"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// wakeTimeout limits a report that connections wait.
const wakeTimeout = 10 * time.Second

// WakeService reports to the session's master that connections wait for a service. The error is hold.ErrRefused if the master says that
// the service wakes nothing, or that it knows no such call, as masters of earlier versions.
func (a *Agent) WakeService(ctx context.Context, service types.NamespacedName) error {
	c, err := a.master()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, wakeTimeout)
	defer cancel()
	_, err = c.WakeService(ctx, &nodev1.WakeServiceRequest{Namespace: service.Namespace, Name: service.Name})
	switch status.Code(err) {
	case codes.FailedPrecondition, codes.PermissionDenied, codes.Unimplemented:
		return fmt.Errorf("%w: %v", hold.ErrRefused, err)
	}
	return err
}
