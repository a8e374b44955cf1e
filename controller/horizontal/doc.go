// Package horizontal scales workloads by what their pods use, as HorizontalPodAutoscalers say (autoscaling/v2).
//
// Every 15 seconds, and when its specification changes, an autoscaler is reconciled: each of its metrics proposes a number of replicas
// (calculator.go, sources.go), the largest counts, recent recommendations and the policies of spec.behavior limit how far and how soon it may change
// (history.go), and the result is written to the target's scale subresource, whatever its kind. Rules, reasons, messages and defaults are
// those of upstream's controller (k8s.io/kubernetes/pkg/controller/podautoscaler, v1.37), with its features that are on by default: scaling to
// and from zero, a tolerance of its own, and observedGeneration.
//
// What pods use comes from package api/usage of this process, by Config.PodMetrics, with the semantics of metrics.k8s.io. Custom and external
// metrics come from their APIs, if somebody serves them.
//
// Recommendations and scaling events of the recent past are kept in memory only. A new leader begins with the present number of replicas as
// the only recommendation, as upstream's controller does after a restart.
package horizontal
