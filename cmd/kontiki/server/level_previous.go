//go:build previouslevel

package server

import "github.com/kontiki/kontiki/cluster"

// featureLevel makes this the program of the previous feature level, for tests of upgrades: it writes, applies and reports what
// that program did.
const featureLevel = cluster.FeatureLevel - 1
