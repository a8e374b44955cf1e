package server

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestProfilesAreServed(t *testing.T) {
	for path, want := range map[string]string{
		"/debug/pprof/": "Types of profiles available", "/debug/pprof/goroutine?debug=1": "goroutine profile:", "/debug/pprof/cmdline": "test",
	} {
		w := httptest.NewRecorder()
		profiles(true).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	w := httptest.NewRecorder()
	profiles(true).ServeHTTP(w, httptest.NewRequest("GET", "/debug/pprof", nil))
	if w.Code != 301 || w.Header().Get("Location") != "/debug/pprof/" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	w = httptest.NewRecorder()
	profiles(false).ServeHTTP(w, httptest.NewRequest("GET", "/debug/pprof/heap", nil))
	if w.Code != 404 {
		t.Errorf("with --profiling=false: %d %v", w.Code, w.Header())
	}
}
