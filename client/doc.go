// Package client speaks Kontiki's gRPC API: the objects of the Kubernetes API with the Go types that they have in k8s.io/api, and
// transactions, which only Kontiki has.
//
// A program that counts visits of a page in a ConfigMap, and keeps a log entry for each:
//
//	package main
//
//	import (
//		"context"
//		"errors"
//		"log"
//		"strconv"
//
//		corev1 "k8s.io/api/core/v1"
//		metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
//
//		"github.com/kontiki/kontiki/client"
//	)
//
//	func main() {
//		ctx := context.Background()
//		c, err := client.Dial(ctx, client.Config{
//			Kubeconfig: "/etc/kontiki/admin.kubeconfig",
//			Endpoints:  []string{"10.0.0.1:6443", "10.0.0.2:6443", "10.0.0.3:6443"},
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer c.Close()
//		for {
//			visits, err := client.Get[*corev1.ConfigMap](ctx, c, "default", "visits")
//			if err != nil {
//				log.Fatal(err)
//			}
//			n, _ := strconv.Atoi(visits.Data["count"])
//			visits.Data = map[string]string{"count": strconv.Itoa(n + 1)}
//			tx := c.Transaction()
//			tx.Update(visits) // at the resource version that was read
//			tx.Create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "visit-" + strconv.Itoa(n+1)}})
//			_, err = tx.Commit(ctx)
//			switch {
//			case err == nil:
//				return
//			case errors.Is(err, client.ErrConflict), errors.Is(err, client.ErrOutcomeUnknown):
//				// Somebody was faster, or it may have been done: read again.
//			default:
//				log.Fatal(err)
//			}
//		}
//	}
//
// (After ErrOutcomeUnknown a visit may be counted twice here. Where that matters, name the created object after what it stands
// for, and take ErrAlreadyExists for success.)
//
// # Fail-over
//
// Every master serves every request. Name them all in Config.Endpoints. The client stays with one until that does not serve; a process
// that dies is left at once, a machine or network that vanishes after about two seconds, a process that stands still within three when a call
// waits for it, and within twelve when only watches are open. Then:
//
//   - What was certainly not carried out goes to the next master: requests that never reached a connection, and those that a master
//     refused as unavailable.
//   - Reads go to the next master whatever became of them. A list goes on at its revision, a watch from its last event.
//   - A write whose answer did not come is not tried again. It fails with ErrOutcomeUnknown.
//
// # Objects
//
// Functions take the type of the objects as their parameter: client.Get[*corev1.Pod](ctx, c, "default", "web"). For kinds without a Go type there is
// *unstructured.Unstructured with OfKind. Answers are the caller's own, to change as it likes.
//
// # Errors
//
// Every error of a call is an *Error, in transactions perhaps within a *TransactionError, and belongs to a class for errors.Is: ErrNotFound,
// ErrConflict, and so on. Error.Fields has the fields that are wrong, Error.Status what the Kubernetes API says.
package client
