package objects_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/test/harness"
)

// TestAListThatOutlivesItsTokenGoesOnAtALaterRevision: also in a cluster without any other writes, and whenever within the leader's
// period the list began.
func TestAListThatOutlivesItsTokenGoesOnAtALaterRevision(t *testing.T) {
	for _, began := range []time.Duration{time.Second, 2 * time.Minute, 4*time.Minute - time.Second, 4*time.Minute + time.Second} {
		t.Run(began.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := harness.New(t)
				for i := range 4 {
					create(t, h, "configmaps", configMap(fmt.Sprint("c-", i)))
				}
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- h.Objects.Mark(ctx, slog.New(slog.DiscardHandler)) }()
				defer func() { stop(); <-ended }()
				time.Sleep(began) // virtual
				list := func(token string) (*objects.ListResult, error) {
					return h.Objects.List(ctx, request(h, "configmaps", "default", ""), objects.ListOptions{Limit: 1, Continue: token})
				}
				first, err := list("")
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Minute) // virtual
				_, err = list(first.Continue)
				if !apierrors.IsResourceExpired(err) {
					t.Fatalf("after five minutes: %v", err)
				}
				second, err := list(err.(apierrors.APIStatus).Status().ListMeta.Continue)
				if err != nil || len(second.Items) != 1 || second.Revision <= first.Revision {
					t.Fatalf("went on from revision %d with %+v, %v", first.Revision, second, err)
				}
			})
		})
	}
}
