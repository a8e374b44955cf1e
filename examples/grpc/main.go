// Command grpc is an example of a program that uses Kontiki's gRPC API: it lists the pods of the cluster, watches its own settings,
// and changes two of them in one transaction.
//
// Start a development cluster with `make run`, and then
//
//	go run ./examples/grpc
//
// For another cluster, give its kubeconfig and its masters, so that the program survives the failure of any of them:
//
//	go run ./examples/grpc -kubeconfig admin.kubeconfig 10.0.0.1 10.0.0.2 10.0.0.3
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/client"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "/var/lib/kontiki/dev/kubeconfig", "whom to be, and in which cluster")
	namespace := flag.String("namespace", "default", "where to make the settings")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *kubeconfig, *namespace, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kubeconfig, namespace string, masters []string) error {
	c, err := client.Dial(ctx, client.Config{Kubeconfig: kubeconfig, Endpoints: masters, Name: "grpc-example"})
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Println("connected to", c.Endpoint())

	pods, _, err := client.List[*corev1.Pod](ctx, c, "")
	if err != nil {
		return err
	}
	for _, pod := range pods {
		fmt.Printf("pod %s/%s is %s on %q\n", pod.Namespace, pod.Name, pod.Status.Phase, pod.Spec.NodeName)
	}
	return change(ctx, c, namespace)
}

// change creates two settings at one instant, watches them appear, and then removes them.
func change(ctx context.Context, c *client.Client, namespace string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	run := fmt.Sprintf("run-%d", os.Getpid())
	setting := func(name, value string) *corev1.ConfigMap {
		return &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "grpc-example-" + name + "-", Labels: map[string]string{"grpc-example": run}},
			Data:       map[string]string{"value": value},
		}
	}
	var made []*corev1.ConfigMap
	for event, err := range client.Watch[*corev1.ConfigMap](ctx, c, namespace, client.Labels("grpc-example="+run)) {
		if err != nil {
			return err
		}
		switch event.Type {
		case client.Synced:
			tx := c.Transaction()
			tx.Create(setting("colour", "green"))
			tx.Create(setting("size", "large"))
			done, err := tx.Commit(ctx)
			if err != nil {
				return err
			}
			fmt.Println("two settings were made at one instant; the cluster is at", done.ResourceVersion)
		case client.Restarted:
			made = nil
		default:
			fmt.Printf("%s %s: %s\n", event.Type, event.Object.Name, event.Object.Data["value"])
			made = append(made, event.Object)
		}
		if len(made) == 2 {
			break
		}
	}

	// None of this is done, because the first setting is not at that revision.
	tx := c.Transaction()
	tx.Delete(client.RefTo(made[1]))
	tx.Check(client.RefTo(made[0]), made[1].ResourceVersion)
	_, err := tx.Commit(ctx)
	var refused *client.TransactionError
	if !errors.As(err, &refused) || !errors.Is(err, client.ErrConflict) {
		return fmt.Errorf("a transaction that must be refused: %w", err)
	}
	fmt.Println("refused, as it should be:", refused)

	tx = c.Transaction()
	for _, one := range made {
		tx.Delete(client.RefTo(one), client.OnlyAt(string(one.UID), ""))
	}
	if _, err := tx.Commit(ctx); err != nil {
		return err
	}
	fmt.Println("both are removed")
	return nil
}
