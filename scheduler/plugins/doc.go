// Package plugins has the scheduler's filters and scores, one file each, under the names that they have in Kubernetes. Their rules,
// defaults and messages are upstream's (k8s.io/kubernetes/pkg/scheduler/framework/plugins).
package plugins
