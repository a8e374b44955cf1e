// Package statemetrics tells of the cluster's objects as Prometheus metrics, under kube-state-metrics' names and labels: the ones that dashboards
// and rules use most. Any master answers, from its own state as it is at that moment.
//
// An answer is written as it is made: for each family of metrics, the objects of its kind are walked once, so it takes time in proportion to the
// objects times the families of their kind (a pod has about 30 series; 30,000 pods take about a second of one processor), and memory for one
// pointer an object. Nothing is kept between answers. A master makes one answer at a time, so that scrapers cannot add up.
package statemetrics
