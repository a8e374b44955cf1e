package auth

import (
	"encoding/base64"
	"net/http"
	"strings"
)

// bearerProtocol is the prefix of the subprotocol in which a browser, which cannot set headers on a WebSocket, sends a token
// (k8s.io/apiserver/pkg/authentication/request/websocket).
const bearerProtocol = "base64url.bearer.authorization.k8s.io."

// webSocketToken removes the token from a WebSocket request's subprotocols and returns it.
func webSocketToken(r *http.Request) (string, bool) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return "", false
	}
	var token string
	found := false
	var rest []string
	for _, header := range r.Header.Values("Sec-WebSocket-Protocol") {
		for _, protocol := range strings.Split(header, ",") {
			protocol = strings.TrimSpace(protocol)
			if encoded, ok := strings.CutPrefix(protocol, bearerProtocol); ok {
				raw, err := base64.RawURLEncoding.DecodeString(encoded)
				if err == nil {
					token = string(raw)
				}
				found = true
				continue
			}
			rest = append(rest, protocol)
		}
	}
	if !found {
		return "", false
	}
	r.Header.Del("Sec-WebSocket-Protocol")
	if len(rest) > 0 {
		r.Header.Set("Sec-WebSocket-Protocol", strings.Join(rest, ","))
	}
	return token, token != ""
}
