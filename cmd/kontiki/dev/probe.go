package dev

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// probe checks the cluster's progress at start.
type probe struct{ set *kubernetes.Clientset }

func newProbe(kubeconfig string) (*probe, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.Timeout = 10 * time.Second
	config.ContentType = "application/vnd.kubernetes.protobuf" // thousands of nodes take seconds in JSON
	config.QPS = -1
	set, err := kubernetes.NewForConfig(config)
	return &probe{set}, err
}

func (p *probe) ready(ctx context.Context) error {
	return p.set.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// masters checks that that many masters are voters and healthy.
func (p *probe) masters(ctx context.Context, want int) error {
	data, err := p.set.RESTClient().Get().AbsPath("/kontiki/v1/cluster").DoRaw(ctx)
	if err != nil {
		return err
	}
	var status struct {
		Members []struct{ Role, Health string }
	}
	if err := json.Unmarshal(data, &status); err != nil {
		return err
	}
	well := 0
	for _, m := range status.Members {
		if m.Health == "ok" && (m.Role == "leader" || m.Role == "voter") {
			well++
		}
	}
	if well < want {
		return fmt.Errorf("%d of %d masters vote", well, want)
	}
	return nil
}

func (p *probe) nodes(ctx context.Context, want int) error {
	list, err := p.set.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	ready := 0
	for _, node := range list.Items {
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				ready++
			}
		}
	}
	if ready < want {
		return fmt.Errorf("%d of %d workers are ready", ready, want)
	}
	return nil
}
