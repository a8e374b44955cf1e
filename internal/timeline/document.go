package timeline

import "time"

// Document is what the cluster knows of a pod's start.
type Document struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Node      string `json:"node,omitempty"`
	Phase     string `json:"phase,omitempty"`
	Ready     bool   `json:"ready"`
	// Created is the pod's creationTimestamp, which is precise to a second.
	Created time.Time `json:"created"`
	// TraceID is the OpenTelemetry trace that the pod was created in, "" if that is not recorded.
	TraceID string   `json:"traceID,omitempty"`
	Sources []Source `json:"sources"`
}

// Source is a component's knowledge.
type Source struct {
	// Role is "master" or "worker", and Host its name.
	Role string `json:"role"`
	Host string `json:"host"`
	Log
	// Error is why it could not be asked, "" if it could.
	Error string `json:"error,omitempty"`
}

// The roles of sources.
const (
	Master = "master"
	Worker = "worker"
)
