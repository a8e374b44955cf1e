//go:build !previouslevel

package server

import "github.com/kontiki/kontiki/cluster"

// featureLevel is the feature level that this program supports.
const featureLevel = cluster.FeatureLevel
