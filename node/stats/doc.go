// Package stats measures what a node, its pods and their containers use of processors, memory, file systems and network. All that the worker
// tells of it rests on one Sampler: the reports to the master, /stats/summary, /metrics/resource and /metrics/cadvisor. Readings that come
// together share one measurement, so a further reader adds nothing to what measuring costs.
package stats
