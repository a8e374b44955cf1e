//go:build race

package apiserver_test

// manyWatchers is fewer than without the race detector, which tracks at most 8,128 goroutines.
const manyWatchers = 800
