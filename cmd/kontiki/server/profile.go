package server

import (
	"net/http"
	"net/http/pprof"
)

const profilePath = "/debug/pprof"

// profiles serves Go's profiles, at the paths where Kubernetes' API server has them; with --profiling=false, there are none.
func profiles(served bool) http.Handler {
	if !served {
		return http.NotFoundHandler()
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+profilePath, http.RedirectHandler(profilePath+"/", http.StatusMovedPermanently))
	mux.HandleFunc("GET "+profilePath+"/", pprof.Index)
	mux.HandleFunc("GET "+profilePath+"/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET "+profilePath+"/profile", pprof.Profile)
	mux.HandleFunc("GET "+profilePath+"/symbol", pprof.Symbol)
	mux.HandleFunc("POST "+profilePath+"/symbol", pprof.Symbol)
	mux.HandleFunc("GET "+profilePath+"/trace", pprof.Trace)
	return mux
}
