// Package rpc is the gRPC front of the object service, beside package rest: it serves proto/kontiki/v1 on the API port.
//
// Both fronts share authentication, authorization, the object service with its admission and validation, limits and errors; only
// the protocol differs. Reads and watches copy the shared encodings of stored versions and build no object.
//
// Requests are HTTP/2 streams of the same server as REST requests, so its TLS, its limits (concurrent streams, idle time, pings,
// unread bytes) and its shutdown apply to both. grpc-go's handler transport does the framing; limits for messages and for streams
// that are not read, which it leaves to the HTTP server, are in stream.go.
package rpc
