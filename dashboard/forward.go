package dashboard

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

const (
	apiPrefix = Root + "/api/"
	// secretProtocol is the prefix of the WebSocket subprotocol with the session's secret.
	secretProtocol = "kontiki.session."
	// answerPolicy keeps what the API answers from ever being a page of this origin.
	answerPolicy = "sandbox; default-src 'none'; frame-ancestors 'none'"
)

// forward passes a request to the API, as the user.
func (d *Dashboard) forward(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Security-Policy", answerPolicy)
	w.Header().Set("Cache-Control", "no-store")
	s, err := d.session(r)
	if err != nil {
		problem(w, http.StatusUnauthorized, "Unauthorized", err.Error())
		return
	}
	if err := authentic(r, s); err != nil {
		problem(w, http.StatusForbidden, "Forbidden", err.Error())
		return
	}
	_, last := s.ends()
	ctx, cancel := context.WithDeadline(r.Context(), last)
	defer cancel()
	as, err := s.as(r, ctx)
	if err != nil {
		problem(w, http.StatusUnauthorized, "Unauthorized", err.Error())
		return
	}
	as.URL.Path = strings.TrimPrefix(as.URL.Path, Root+"/api")
	as.URL.RawPath = strings.TrimPrefix(as.URL.RawPath, Root+"/api")
	as.RequestURI = as.URL.RequestURI()
	d.API.ServeHTTP(w, as)
}

// authentic returns an error unless the request is proven to be from the page. It removes the proof from a WebSocket's subprotocols.
func authentic(r *http.Request, s *session) error {
	socket := strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
	if err := sameOrigin(r, socket); err != nil {
		return err
	}
	secret := r.Header.Get(secretHeader)
	if socket {
		secret = takeSecret(r.Header)
	}
	if !s.proves(secret) {
		return fmt.Errorf("the header %s does not match the session", secretHeader)
	}
	return nil
}

// takeSecret removes the secret from the subprotocols and returns it.
func takeSecret(h http.Header) (secret string) {
	var rest []string
	for _, header := range h.Values("Sec-WebSocket-Protocol") {
		for protocol := range strings.SplitSeq(header, ",") {
			protocol = strings.TrimSpace(protocol)
			if value, ok := strings.CutPrefix(protocol, secretProtocol); ok {
				secret = value
				continue
			}
			rest = append(rest, protocol)
		}
	}
	h.Del("Sec-WebSocket-Protocol")
	if len(rest) > 0 {
		h.Set("Sec-WebSocket-Protocol", strings.Join(rest, ", "))
	}
	return secret
}

// as returns a copy of a request that has the session's credential, and no other.
func (s *session) as(r *http.Request, ctx context.Context) (*http.Request, error) {
	as := r.Clone(ctx)
	for _, name := range []string{"Cookie", "Authorization", secretHeader, "Origin", "Referer"} {
		as.Header.Del(name)
	}
	// Other credentials than the session's: the browser's certificate, and a token among the subprotocols, are not the session's.
	if as.TLS == nil {
		as.TLS = &tls.ConnectionState{}
	}
	state := *as.TLS
	state.PeerCertificates, state.VerifiedChains = nil, nil
	as.TLS = &state
	if s.Token != "" {
		as.Header.Set("Authorization", "Bearer "+s.Token)
		return as, nil
	}
	for _, der := range s.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%w: the session's certificate cannot be read", errNoSession)
		}
		state.PeerCertificates = append(state.PeerCertificates, c)
	}
	if len(state.PeerCertificates) == 0 {
		return nil, errors.New("the session has no credential")
	}
	return as, nil
}
