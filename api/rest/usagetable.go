package rest

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/printers"
	"k8s.io/metrics/pkg/apis/metrics"
)

// usageTables adds the columns of metrics.k8s.io, which are metrics-server's.
func usageTables(h printers.PrintHandler) {
	columns := []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: "Name of the resource"},
		{Name: string(corev1.ResourceCPU), Type: "string", Format: "quantity"},
		{Name: string(corev1.ResourceMemory), Type: "string", Format: "quantity"},
		{Name: "Window", Type: "string", Format: "duration"},
	}
	row := func(name string, used corev1.ResourceList, window metav1.Duration) []metav1.TableRow {
		return []metav1.TableRow{{Cells: []any{name, used.Cpu().String(), used.Memory().String(), window.Duration.String()}}}
	}
	// They only fail if a type is registered twice, or the function has the wrong signature.
	_ = h.TableHandler(columns, func(n *metrics.NodeMetrics, _ printers.GenerateOptions) ([]metav1.TableRow, error) {
		return row(n.Name, n.Usage, n.Window), nil
	})
	_ = h.TableHandler(columns, func(p *metrics.PodMetrics, _ printers.GenerateOptions) ([]metav1.TableRow, error) {
		sum := corev1.ResourceList{}
		for _, c := range p.Containers {
			for name, used := range c.Usage {
				q := sum[name]
				q.Add(used)
				sum[name] = q
			}
		}
		return row(p.Name, sum, p.Window), nil
	})
}
