package rbac

import (
	"context"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/internal/pause"
)

// Patience is how long Ensure leaves the default roles to the leader.
const Patience = 10 * time.Second

// Ensure returns once all default roles and bindings exist. It leaves them to the leader at first, and then creates them itself: while a
// cluster is upgraded, the leader may be an older program that knows no roles, and masters must become ready all the same.
func Ensure(ctx context.Context, c *client.Client, patience time.Duration, log *slog.Logger) error {
	ready := Ready(c)
	for pause.For(ctx, patience) {
		if ready(ctx) == nil {
			return nil
		}
		log.Info("the leader has not created the default roles, creating them")
		err := controller.Each(Defaults(), func(obj client.Object) error {
			err := Reconcile(ctx, c, obj)
			if apierrors.IsNotFound(err) { // its namespace is about to be created
				return nil
			}
			return err
		})
		if err != nil {
			log.Warn("the default roles could not be created, trying again", "error", err)
		}
	}
	return ctx.Err()
}
