package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/client"
)

func ExampleDial() {
	ctx := context.Background()
	c, err := client.Dial(ctx, client.Config{
		Kubeconfig: "/etc/kontiki/admin.kubeconfig",
		Endpoints:  []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	pods, _, err := client.List[*corev1.Pod](ctx, c, "", client.Labels("app=web"))
	if err != nil {
		log.Fatal(err)
	}
	for _, pod := range pods {
		fmt.Println(pod.Namespace, pod.Name, pod.Status.Phase)
	}
}

func ExampleGet() {
	c := exampleCluster()
	defer c.Close()
	ctx := context.Background()
	_, err := client.Get[*corev1.ConfigMap](ctx, c, "default", "greeting")
	fmt.Println(errors.Is(err, client.ErrNotFound))
	created, err := client.Create(ctx, c, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "greeting"},
		Data:       map[string]string{"text": "hello"},
	})
	if err != nil {
		log.Fatal(err)
	}
	created.Data["text"] = "good evening"
	if _, err := client.Update(ctx, c, created); err != nil {
		log.Fatal(err)
	}
	_, err = client.Update(ctx, c, created) // has the old resource version
	fmt.Println(errors.Is(err, client.ErrConflict))
	now, err := client.Get[*corev1.ConfigMap](ctx, c, "default", "greeting")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(now.Data["text"])
	// Output:
	// true
	// true
	// good evening
}

func ExampleWatch() {
	c := exampleCluster()
	defer c.Close()
	ctx := context.Background()
	seen := map[string]*corev1.ConfigMap{}
	for event, err := range client.Watch[*corev1.ConfigMap](ctx, c, "default") {
		if err != nil {
			log.Fatal(err)
		}
		switch event.Type {
		case client.Added, client.Modified:
			seen[event.Object.Name] = event.Object
		case client.Deleted:
			delete(seen, event.Object.Name)
		case client.Restarted:
			clear(seen)
		case client.Synced:
			fmt.Println("there are", len(seen))
			_, err := client.Create(ctx, c, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "new"}})
			if err != nil {
				log.Fatal(err)
			}
		}
		if seen["new"] != nil {
			fmt.Println("a new one came")
			break
		}
	}
	// Output:
	// there are 0
	// a new one came
}

func ExampleTransaction() {
	c := exampleCluster()
	defer c.Close()
	ctx := context.Background()
	settings := func(n int) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("settings-%d", n)}}
	}
	tx := c.Transaction()
	first := tx.Create(settings(1))
	tx.Create(settings(2))
	done, err := tx.Commit(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("made", client.ResultOf[*corev1.ConfigMap](done, first).Name)

	tx = c.Transaction()
	tx.Delete(client.RefTo(settings(1)))
	tx.CheckAbsent(client.RefTo(settings(2)))
	_, err = tx.Commit(ctx)
	var failed *client.TransactionError
	if errors.As(err, &failed) {
		fmt.Println(failed.Operation, failed.Name, errors.Is(err, client.ErrAlreadyExists))
	}
	// Output:
	// made settings-1
	// 1 operation 1, check ConfigMap default/settings-2 true
}
