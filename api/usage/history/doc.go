// Package history keeps what nodes, namespaces, workloads and containers used in the last day, in memory.
//
// Each master takes the newest reports of all workers (api/usage) once a minute. Of each subject it keeps the last hour minute by minute, and the
// last day as means of five minutes, in a series of a fixed size (1.5 kB): processors and memory as floating-point numbers of 16 bits, exact
// to a thousandth. A pod is the sum of its containers. What is kept is bounded by the number of series (MostSeries); when it is reached, those are
// forgotten first that have had no new point for longest, and if all are in use, new subjects are not recorded, which the answers say.
//
// Nothing goes through Raft or to a disk, and no leader is involved: any master answers from its own memory. A master that starts asks the others for
// what they have (MastersService), so a day of usage is lost only when all masters are down at the same time.
//
// A namespace, a workload or a container is known with the UID of its namespace, and a container with that of its pod: who may read the
// namespace that exists now does not see what one of the same name had before.
package history
