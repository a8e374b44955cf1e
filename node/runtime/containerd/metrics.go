package containerd

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/kontiki/kontiki/internal/collectors"
	"github.com/kontiki/kontiki/internal/histogram"
)

// Metrics count the calls to containerd, under the kubelet's names for operations of its runtime. The type of an operation is that of the
// kubelet where it means the same, and otherwise containerd's service and method.
type Metrics struct {
	collectors.Group
	total, errors *prometheus.CounterVec
	duration      *prometheus.HistogramVec
	operations    sync.Map // by the full method
}

type operation struct {
	total, errors prometheus.Counter
	duration      prometheus.Observer
}

// NewMetrics returns metrics of which none has been counted.
func NewMetrics() *Metrics {
	of := []string{"operation_type"}
	m := &Metrics{
		total:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubelet_runtime_operations_total", Help: "Cumulative number of runtime operations by operation type."}, of),
		errors:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubelet_runtime_operations_errors_total", Help: "Cumulative number of runtime operation errors by operation type."}, of),
		duration: histogram.Vec("kubelet_runtime_operations_duration_seconds", "Duration in seconds of runtime operations. Broken down by operation type.", prometheus.ExponentialBuckets(.005, 2.5, 14), of...),
	}
	m.Group = collectors.Group{m.total, m.errors, m.duration}
	return m
}

// operationTypes are the kubelet's names.
var operationTypes = map[string]string{
	"containers/Create": "create_container", "containers/Delete": "remove_container", "containers/List": "list_containers", "containers/Get": "container_status",
	"tasks/Start": "start_container", "tasks/Kill": "stop_container", "tasks/Exec": "exec", "images/List": "list_images", "images/Get": "image_status",
	"images/Delete": "remove_image", "version/Version": "version",
}

// typeOf returns the type of a method such as /containerd.services.tasks.v1.Tasks/Start.
func typeOf(method string) string {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	if i := strings.LastIndexByte(service, '.'); i >= 0 {
		service = service[i+1:]
	}
	service = strings.ToLower(service)
	if known := operationTypes[service+"/"+name]; known != "" {
		return known
	}
	return service + "_" + strings.ToLower(name)
}

// intercept measures a call. The methods are those of the program, so the series are few.
func (m *Metrics) intercept(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	began := time.Now()
	err := invoke(ctx, method, request, answer, conn, options...)
	known, ok := m.operations.Load(method)
	if !ok {
		name := typeOf(method)
		known, _ = m.operations.LoadOrStore(method, &operation{m.total.WithLabelValues(name), m.errors.WithLabelValues(name), m.duration.WithLabelValues(name)})
	}
	o := known.(*operation)
	o.total.Inc()
	o.duration.Observe(time.Since(began).Seconds())
	if err != nil && ctx.Err() == nil {
		o.errors.Inc()
	}
	return err
}
