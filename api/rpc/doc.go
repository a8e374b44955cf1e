// Package rpc is the gRPC front of the object service, beside package rest: the services of proto/kontiki/v1 on the API port.
//
// Both fronts share authentication, authorization, the object service with its admission and validation, limits and
// errors; what differs is the wire. Reads and watches copy the shared encodings of stored versions and build no object.
//
// Requests come as HTTP/2 streams of the same server that REST requests come to, so its TLS, its limits (concurrent streams,
// idle time, pings, bytes that nobody takes) and its shutdown hold for both. grpc-go's handler transport does the framing;
// what it leaves to the HTTP server, a bound on messages and on streams that are not read, is in stream.go.
package rpc
