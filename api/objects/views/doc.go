// Package views has views of the store other than that of its present state: of an earlier revision, and of what a transaction has staged.
package views
