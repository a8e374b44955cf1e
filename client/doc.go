// Package client is a client of Kontiki's gRPC API: the objects of the Kubernetes API with their Go types in k8s.io/api, and
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
// Every master serves every request. List them all in Config.Endpoints. The client uses one master until that fails: it leaves a
// process that dies at once, a machine or network that vanishes after about two seconds, and a paused process within three seconds
// when a call is waiting for it, or within twelve when only watches are open. Then:
//
//   - Requests that were certainly not carried out go to the next master: those that were never sent, and those that a master refused as
//     unavailable.
//   - Reads go to the next master after any failure. A list continues at its revision, a watch after its last event.
//   - A write whose response did not arrive is not retried. It returns ErrOutcomeUnknown.
//
// # Objects
//
// Functions have the type of the objects as their parameter: client.Get[*corev1.Pod](ctx, c, "default", "web"). For kinds without a
// Go type, use *unstructured.Unstructured with OfKind. Returned objects are not shared; the caller may change them.
//
// # Errors
//
// Every error of a call is an *Error, in transactions possibly wrapped in a *TransactionError, and belongs to a class for
// errors.Is: ErrNotFound, ErrConflict, and so on. Error.Fields has the invalid fields, Error.Status the Kubernetes Status.
package client
