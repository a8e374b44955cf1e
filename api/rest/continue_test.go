package rest_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/test/harness"
)

// older returns the continue token with an earlier start of its list.
func older(t *testing.T, token string, by time.Duration) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		t.Fatal(err)
	}
	began, ok := fields["t"].(float64)
	if !ok {
		t.Fatalf("no time in %s", raw)
	}
	fields["t"] = began - by.Seconds()
	if raw, err = json.Marshal(fields); err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// A list that is continued too late, by its token's age or by the history, fails with Expired, and can continue with the newest
// state.
func TestAListContinuedTooLateGoesOnInconsistently(t *testing.T) {
	ctx := context.Background()
	for name, late := range map[string]struct {
		by     time.Duration
		writes int
	}{"by its age": {by: 5 * time.Minute}, "by the history": {writes: 50}} {
		t.Run(name, func(t *testing.T) {
			h := harness.NewWith(t, fsm.Options{HistoryEvents: 20})
			maps := h.Clientset().CoreV1().ConfigMaps("default")
			for i := range 5 {
				if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c", i)}}, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			first, err := maps.List(ctx, metav1.ListOptions{Limit: 2})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := maps.List(ctx, metav1.ListOptions{Limit: 2, Continue: older(t, first.Continue, 4*time.Minute)}); err != nil {
				t.Errorf("after four minutes: %v", err)
			}
			for i := range late.writes {
				if _, err := maps.Update(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c0"}, Data: map[string]string{"i": fmt.Sprint(i)}}, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			_, err = maps.List(ctx, metav1.ListOptions{Limit: 2, Continue: older(t, first.Continue, late.by)})
			if !apierrors.IsResourceExpired(err) {
				t.Fatalf("answered %v", err)
			}
			token := err.(apierrors.APIStatus).Status().ListMeta.Continue
			if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c1a"}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			second, err := maps.List(ctx, metav1.ListOptions{Limit: 2, Continue: token})
			if err != nil || len(second.Items) != 2 || second.Items[0].Name != "c2" || second.ResourceVersion == first.ResourceVersion || *second.RemainingItemCount != 1 {
				t.Fatalf("went on with %+v, %v", second, err)
			}
			third, err := maps.List(ctx, metav1.ListOptions{Limit: 2, Continue: second.Continue})
			if err != nil || len(third.Items) != 1 || third.ResourceVersion != second.ResourceVersion || third.Continue != "" {
				t.Fatalf("ended with %+v, %v", third, err)
			}
		})
	}
}
