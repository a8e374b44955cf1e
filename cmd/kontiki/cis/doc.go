// Package cis answers the recommendations of the CIS Kubernetes Benchmark (v1.11) for a Kontiki cluster, by their ids: pass, fail, not
// applicable and why, or manual, with what there is to decide.
//
// An answer comes from one of these: how Kontiki is built, where nothing can be set; the flags of the master that answers; the configuration
// of each worker, at its /configz; the files of the host that the program runs on; objects of the cluster; and a handshake with
// the API. Titles and reasons are our own words: the benchmark's text is its authors'.
//
// Recommendations that the benchmark leaves to a person are answered too where a computation decides them. Where it does not, the answer
// is manual, and says what was found.
package cis
