//go:build !race

package apiserver_test

const manyWatchers = 10_000
