package bench_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// BenchmarkBesideWatchers makes requests to the leader, by clients that share one connection: with no watchers, with ten thousand idle ones, and
// with a hundred clients beside them that send their bodies slowly.
func BenchmarkBesideWatchers(b *testing.B) {
	leader, _, err := roles()
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name           string
		watchers, slow int
	}{{"alone", 0, 0}, {"watchers=10000", 10_000, 0}, {"watchers=10000,slow=100", 10_000, 100}} {
		b.Run(c.name, func(b *testing.B) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if err := hold(ctx, leader, c.watchers); err != nil {
				b.Fatal(err)
			}
			if err := trickle(ctx, leader, c.slow); err != nil {
				b.Fatal(err)
			}
			for name, request := range map[string]func(*kubernetes.Clientset, string) error{
				"get": func(set *kubernetes.Clientset, _ string) error {
					_, err := set.CoreV1().ConfigMaps("default").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
					return err
				},
				"create": func(set *kubernetes.Clientset, name string) error {
					_, err := set.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
					return err
				},
			} {
				b.Run(name, func(b *testing.B) { share(b, leader, 1, request) })
			}
			b.ReportMetric(memory(b, leader), "MB-leader")
		})
	}
}

// direct returns a configuration for requests to one master.
func direct(host string) (*rest.Config, error) {
	config := rest.CopyConfig(cluster.Config)
	config.Host = "https://127.0.0.1:6443"
	dial, err := cluster.DialFrom(host)
	config.Dial = dial
	return config, err
}

// hold keeps watches of ConfigMaps open until the context ends.
func hold(ctx context.Context, host string, count int) error {
	config, err := direct(host)
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	opening, _ := errgroup.WithContext(ctx)
	opening.SetLimit(32)
	for range count {
		opening.Go(func() error {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/api/v1/namespaces/kube-public/configmaps?watch=1&resourceVersion=0", nil)
			if err != nil {
				return err
			}
			answer, err := client.Do(r)
			if err == nil && answer.StatusCode != http.StatusOK {
				err = fmt.Errorf("watch: %s", answer.Status)
			}
			return err
		})
	}
	return opening.Wait()
}

// trickle keeps requests open whose bodies arrive a byte a second.
func trickle(ctx context.Context, host string, count int) error {
	config, err := direct(host)
	if err != nil {
		return err
	}
	secured, err := rest.TLSConfigFor(config)
	if err != nil {
		return err
	}
	secured.NextProtos, secured.ServerName = []string{"http/1.1"}, "localhost"
	for range count {
		raw, err := config.Dial(ctx, "tcp", "127.0.0.1:6443")
		if err != nil {
			return err
		}
		conn := tls.Client(raw, secured)
		if _, err := conn.Write([]byte("POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{")); err != nil {
			return err
		}
		go func(conn net.Conn) {
			defer conn.Close()
			for ticker := time.NewTicker(time.Second); ; {
				select {
				case <-ctx.Done():
					ticker.Stop()
					return
				case <-ticker.C:
					if _, err := conn.Write([]byte{' '}); err != nil {
						return // the master does not wait forever
					}
				}
			}
		}(conn)
	}
	return nil
}
