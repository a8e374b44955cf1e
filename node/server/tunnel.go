package server

import (
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// tunnelDial is how long a pod may take to accept a connection.
const tunnelDial = 10 * time.Second

// tunnel serves CONNECT to the pods of this node: masters reach pods through their agents, so they need no route to the pod network
// (for the API's pods/proxy and services/proxy). Other addresses are refused.
func (s *Server) tunnel(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			next.ServeHTTP(w, r)
			return
		}
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil || !s.servesPod(host) {
			http.Error(w, r.Host+" is not a pod of this node", http.StatusForbidden)
			return
		}
		pod, err := (&net.Dialer{Timeout: tunnelDial}).DialContext(r.Context(), "tcp", r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer pod.Close()
		hijacker, ok := w.(http.Hijacker)
		if !ok {
			http.Error(w, "the connection cannot be hijacked", http.StatusInternalServerError)
			return
		}
		client, buffered, err := hijacker.Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer client.Close()
		if _, err := io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			return
		}
		var both sync.WaitGroup
		both.Go(func() {
			io.Copy(pod, buffered) // ends with either side
			closeWrite(pod)
		})
		both.Go(func() {
			io.Copy(client, pod)
			client.Close()
			pod.Close()
		})
		both.Wait()
	})
}

func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}

func (s *Server) servesPod(ip string) bool {
	for _, pod := range s.c.Pods.Pods() {
		for _, address := range pod.Status.PodIPs {
			if address.IP == ip {
				return true
			}
		}
	}
	return false
}
