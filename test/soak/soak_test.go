// Package soak_test creates and deletes pods of many kinds for a time, kills agents and containerd meanwhile, and compares what is on the
// workers in the end with what was there in the beginning: mounts, network, cgroups, processes, files, and what containerd keeps.
package soak_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kontiki/kontiki/internal/pause"
	"github.com/kontiki/kontiki/test/devcluster"
)

const (
	// most is how many pods there are at a time.
	most = 12
	// step is the mean time between two creations or deletions; a process is killed every kills steps.
	step  = 300 * time.Millisecond
	kills = 20
	// settle limits how long the workers may take to remove everything.
	settle = 3 * time.Minute
)

// TestASoakLeavesNothing runs for SOAK (30 s if it is not set), with the random numbers of SOAK_SEED.
func TestASoakLeavesNothing(t *testing.T) {
	if os.Getenv("KONTIKI") == "" {
		// The cluster of processes needs the binary that these targets build.
		t.Skip("KONTIKI is not set: `make soak` and `make e2e` run this")
	}
	duration, seed := 30*time.Second, uint64(time.Now().UnixNano())
	if text := os.Getenv("SOAK"); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	if text := os.Getenv("SOAK_SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SOAK_SEED=%d", seed)
	cluster, err := devcluster.Start(io.Discard, 1, 2)
	t.Cleanup(func() {
		if t.Failed() {
			cluster.ShowLogs(os.Stderr)
		}
		if err := cluster.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &soak{t: t, c: cluster, r: rand.New(rand.NewPCG(seed, 0))}
	s.objects()
	// Each kind once, so that what stays for good (unpacked images, a worker's own rules) is there before the comparison.
	for kind := range kinds {
		s.create(kind)
	}
	s.removeAll()
	witnesses := s.witnesses()
	before := s.settled(nil)
	s.run(duration)
	s.removeAll()
	s.settled(before)
	s.unharmed(witnesses)
}

type soak struct {
	t    *testing.T
	c    *devcluster.Cluster
	r    *rand.Rand
	made int
	live []string
	done struct{ created, deleted, agents, containerds int }
}

func (s *soak) objects() {
	s.t.Helper()
	for _, err := range []error{
		create(s.c.Set.CoreV1().ConfigMaps("default").Create, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "soak"}, Data: map[string]string{"a": "b"}}),
		create(s.c.Set.CoreV1().Secrets("default").Create, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "soak"}, StringData: map[string]string{"a": "b"}}),
	} {
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

func create[T any](call func(context.Context, T, metav1.CreateOptions) (T, error), object T) error {
	_, err := call(context.Background(), object, metav1.CreateOptions{})
	return err
}

func (s *soak) create(kind int) {
	s.t.Helper()
	s.made++
	p := pod(fmt.Sprintf("soak-%d", s.made), kinds[kind])
	if err := create(s.c.Set.CoreV1().Pods("default").Create, p); err != nil {
		s.t.Fatal(err)
	}
	s.live = append(s.live, p.Name)
	s.done.created++
}

// remove deletes a pod, with its own period of grace or at once.
func (s *soak) remove(i int) {
	s.t.Helper()
	options := metav1.DeleteOptions{}
	if s.r.IntN(3) == 0 {
		options.GracePeriodSeconds = new(int64(s.r.IntN(2)))
	}
	if err := s.c.Set.CoreV1().Pods("default").Delete(s.t.Context(), s.live[i], options); err != nil && !apierrors.IsNotFound(err) {
		s.t.Fatal(err)
	}
	s.live = append(s.live[:i], s.live[i+1:]...)
	s.done.deleted++
}

func (s *soak) run(duration time.Duration) {
	s.t.Helper()
	end := time.Now().Add(duration)
	for i := 1; time.Now().Before(end); i++ {
		switch {
		case len(s.live) == 0 || len(s.live) < most && s.r.IntN(2) == 0:
			s.create(s.r.IntN(len(kinds)))
		default:
			s.remove(s.r.IntN(len(s.live)))
		}
		if i%kills == 0 {
			s.kill()
		}
		pause.For(s.t.Context(), time.Duration(s.r.Int64N(int64(2*step)))) // the test is what happens meanwhile
	}
	s.t.Logf("%d pods were created and %d deleted, agents were killed %d times, containerd %d times", s.done.created, s.done.deleted, s.done.agents, s.done.containerds)
}

// kill kills an agent or containerd; the supervisor of the development cluster starts it again.
func (s *soak) kill() {
	s.t.Helper()
	name := []string{"worker-1", "worker-2", "containerd"}[s.r.IntN(3)]
	pid, err := s.c.Process(name)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return // it has not been started again yet
	}
	if name == "containerd" {
		s.done.containerds++
	} else {
		s.done.agents++
	}
}

func (s *soak) removeAll() {
	s.t.Helper()
	for len(s.live) > 0 {
		s.remove(len(s.live) - 1)
	}
	s.await("all pods to be gone", func() error {
		list, err := s.c.Set.CoreV1().Pods("default").List(s.t.Context(), metav1.ListOptions{LabelSelector: "app=soak"})
		if err != nil {
			return err
		}
		claims, err := s.c.Set.CoreV1().PersistentVolumes().List(s.t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		if n := len(list.Items) + len(claims.Items); n > 0 {
			var names []string
			for _, p := range list.Items {
				names = append(names, p.Name+" on "+p.Spec.NodeName)
			}
			return fmt.Errorf("%d pods and volumes are left: %s", n, strings.Join(names, ", "))
		}
		return nil
	})
}

// settled waits until the workers have what they had before, and returns what they have; if before is nil, until they have no pods.
func (s *soak) settled(before inventory) (now inventory) {
	s.t.Helper()
	if before == nil {
		// What the warm-up left is removed by now; two equal inventories in a row say that nothing goes on any more.
		s.await("the workers to be at rest", func() (err error) {
			last := now
			if now, err = s.inventory(); err != nil {
				return err
			}
			if last == nil {
				return fmt.Errorf("only one inventory so far")
			}
			return last.differs(now)
		})
		return now
	}
	s.await("nothing to be left behind", func() (err error) {
		if now, err = s.inventory(); err != nil {
			return err
		}
		return before.differs(now)
	})
	return now
}

func (s *soak) await(what string, ask func() error) {
	s.t.Helper()
	deadline := time.Now().Add(settle)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("waited %v for %s: %v", settle, what, err)
		}
		pause.For(s.t.Context(), time.Second)
	}
}

// witnesses creates a pod on each worker that nothing may happen to.
func (s *soak) witnesses() map[string]string {
	s.t.Helper()
	pods := s.c.Set.CoreV1().Pods("kube-public")
	for _, worker := range []string{"worker-1", "worker-2"} {
		p := pod("witness-"+worker, func(*corev1.Pod) {})
		p.Labels, p.Spec.NodeName = map[string]string{"app": "witness"}, worker
		if err := create(pods.Create, p); err != nil {
			s.t.Fatal(err)
		}
	}
	ids := map[string]string{}
	s.await("the witnesses to run", func() error {
		list, err := pods.List(s.t.Context(), metav1.ListOptions{LabelSelector: labels.Set{"app": "witness"}.String()})
		if err != nil {
			return err
		}
		for _, p := range list.Items {
			if p.Status.Phase != corev1.PodRunning {
				return fmt.Errorf("%s is %s", p.Name, p.Status.Phase)
			}
			ids[p.Name] = p.Status.ContainerStatuses[0].ContainerID
		}
		return nil
	})
	return ids
}

// unharmed checks that the witnesses' containers are those of the beginning and run.
func (s *soak) unharmed(ids map[string]string) {
	s.t.Helper()
	for name, id := range ids {
		s.await(name+" to be reported as it is", func() error {
			p, err := s.c.Set.CoreV1().Pods("kube-public").Get(s.t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if c := p.Status.ContainerStatuses[0]; c.ContainerID != id || c.RestartCount != 0 || !c.Ready {
				return fmt.Errorf("its container was %s; now it is %s, has restarted %d times, and is ready: %t", id, c.ContainerID, c.RestartCount, c.Ready)
			}
			return nil
		})
	}
}
