package objects_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/test/harness"
)

// TestBookmarksComeThroughForeignChanges: a watch whose selector matches nothing gets bookmarks, however many other objects change.
func TestBookmarksComeThroughForeignChanges(t *testing.T) {
	h := harness.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	w, err := h.Objects.Watch(ctx, request(h, "configmaps", "default", ""), objects.WatchOptions{
		Labels: labels.SelectorFromSet(labels.Set{"none": "x"}), Bookmarks: true, BookmarkEvery: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	start := h.Store.View().Revision()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil && i < 2000; i++ {
			if _, err := h.Objects.Create(ctx, request(h, "configmaps", "default", ""), configMap(fmt.Sprint("c-", i))); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	}()
	events, err := w.Next(ctx)
	if err != nil || len(events) != 1 || events[0].Type != watch.Bookmark || events[0].Revision <= start || events[0].InitialEnd {
		t.Errorf("%+v, %v", events, err)
	}
	cancel()
	<-done
}

func TestWatchesOfWhatIsGoneSayExpired(t *testing.T) {
	h := harness.NewWith(t, fsm.Options{HistoryEvents: 4})
	ctx := t.Context()
	first := create(t, h, "configmaps", configMap("first"))
	slow, err := h.Objects.Watch(ctx, request(h, "configmaps", "default", ""), objects.WatchOptions{ResourceVersion: first.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	page, err := h.Objects.List(ctx, request(h, "configmaps", "default", ""), objects.ListOptions{ResourceVersion: first.ResourceVersion})
	if err != nil || len(page.Items) != 1 {
		t.Fatal(page, err)
	}
	for i := range 50 {
		create(t, h, "configmaps", configMap(fmt.Sprint("c-", i)))
	}
	if _, err := h.Objects.Watch(ctx, request(h, "configmaps", "default", ""), objects.WatchOptions{ResourceVersion: first.ResourceVersion}); !apierrors.IsResourceExpired(err) {
		t.Errorf("a watch from long ago: %v", err)
	}
	if _, err := slow.Next(ctx); !apierrors.IsResourceExpired(err) {
		t.Errorf("a watch that fell behind: %v", err)
	}
	if _, err := h.Objects.List(ctx, request(h, "configmaps", "default", ""), objects.ListOptions{ResourceVersion: first.ResourceVersion, ResourceVersionMatch: "Exact"}); !apierrors.IsResourceExpired(err) {
		t.Errorf("a list of long ago: %v", err)
	}
	if _, err := h.Objects.Watch(ctx, request(h, "configmaps", "default", ""), objects.WatchOptions{ResourceVersion: "999999"}); !apierrors.IsTimeout(err) {
		t.Errorf("a watch from the future: %v", err)
	}
}
