// Package browser has the tests of the dashboard in a browser: Playwright with Debian's Chromium, against a cluster of `kontiki dev` that the Go test
// starts. `make browser` runs them. The tests themselves are the files *.spec.ts; each has a namespace of its own.
package browser
