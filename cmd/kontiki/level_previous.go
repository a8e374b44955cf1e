//go:build previouslevel

package main

import "github.com/kontiki/kontiki/cluster"

// featureLevel makes this the program before the last rise of the feature level, for tests of upgrades: it writes, applies
// and says what that one did.
const featureLevel = cluster.FeatureLevel - 1
