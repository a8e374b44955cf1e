// Package dashboard serves the web page at /ui on every master's API port. The page's source is in web/, and what is built of it, in dist/, is
// part of the binary.
//
// # Paths
//
//	GET    /ui/...                       the page; below /ui/assets/ files whose names contain a hash of their content
//	GET    /ui/session/challenge         something to sign, for a sign-in with a client certificate
//	POST   /ui/session                   signs in
//	GET    /ui/session                   who is signed in; also notes that the user is there
//	DELETE /ui/session                   signs out
//	GET    /ui/why/NAMESPACE/POD         the answer of `kontiki why`, as the user
//	*      /ui/api/PATH                  the API's PATH, as the user
//	POST   /ui/port                      an address for a port of a pod or service
//	*      /ui/port/GRANT/PATH           what the port serves, for a frame of the page
//
// # How signing in works
//
// The user gives the page a bearer token (a service account's, OpenID Connect's, a bootstrap token), a client certificate with its key, or a
// kubeconfig with either, which the page reads itself. A token is sent with the sign-in. A private key never leaves the browser: the page signs a
// challenge with it (WebCrypto), and sends the signature and the certificate. A client certificate that the browser itself presented in TLS needs
// no signature. The challenge expires after two minutes, and what is signed contains the page's origin, so that a signature that another site
// obtained is worth nothing here.
//
// The master checks the credential as it checks that of any request, by asking the API as that user who the user is (SelfSubjectReview); so sign-ins
// are in the audit log. Then it seals the credential, that is the token or the certificate, into a cookie: AES-256-GCM with a key that is
// derived (HKDF) from the cluster's secret keys. Every master has these, so every master accepts the cookie, and none stores anything. The
// cookie is Secure, HttpOnly, SameSite=Strict, and sent to /ui/ only. Neither scripts nor the disk of the browser get to see the credential: it is in no
// URL, no local storage, and not in the page's memory after the sign-in.
//
// A session ends eight hours after the sign-in, an hour after the user last touched the page, when the user signs out, or when the credential is no
// longer valid: each request authenticates with it anew, so a token that expired or whose service account is gone, and a certificate that was
// revoked, end the session with the next request. Since nothing is stored, a sealed cookie that was copied out of a browser is valid until it
// expires; what revokes it is revoking the credential. `kontiki secrets rotate` ends all sessions once the old keys are dropped.
//
// # Requests
//
// A request to /ui/api/ is passed, in the process, to the handler of the API port: with the user's bearer token, or as if it had come by a TLS
// connection with the user's certificate. Authentication, impersonation, fairness, authorization, admission and audit are those of any request. The cookie is
// removed before, so it can neither be logged nor be forwarded to a pod by the API's proxy.
//
// # Forged requests
//
// The cookie alone authorizes nothing. Every request to /ui/api/, reads too, must have the header X-Kontiki-Session with a secret that is part of the
// sealed session and that only the page learns, from GET /ui/session. That path, and signing in and out, need the header X-Kontiki-Session with any
// value: another site's page cannot send it without a preflight, and no preflight is answered. A WebSocket, whose headers a page cannot set, has the secret as
// one of its subprotocols ("kontiki.session.SECRET"), which is removed before the request is passed on. An Origin that is not the page's
// own is refused everywhere. So a link, a form, an image or a script of another site does nothing, and neither does a page that a pod serves
// through the API's proxy: a browser that follows a link sends no such header. What the API answers below /ui/api/ has a Content-Security-Policy with
// `sandbox`, so it is never a page of this origin.
//
// # Ports of pods
//
// The page can show what a port of a pod or a service serves, in a frame. What a pod serves is hostile: it must not act as the user, in the cluster or on
// the page, and must not be taken for the page. The frame's address contains a grant: a sealed value (as the session's, for another use) with the
// user's credential, one port, and a time at most an hour away. It is good for nothing but requests to that port, through the API's proxy as that user; so
// authentication, rights and audit are those of any request, and revoking the credential or the right ends it. The pod learns its own frame's address,
// and with it whoever it tells can reach the pod's own port meanwhile, and nothing else.
//
// Every answer has a Content-Security-Policy with `sandbox` and without allow-same-origin, as the frame has too: its origin is opaque. So
// its scripts cannot read the page, cookies or storage, register a service worker, open windows or navigate the page, and what they send to /ui/ or
// the API is of another origin, without the cookie (SameSite=Strict) and without the session's header. The cookie, which the browser sends along when the
// page loads the frame, is removed, as is every credential, and none reaches the pod. Of the pod's answer only harmless headers pass: no cookies, which
// the browser would keep for the masters' host, and could fix a session with; no demand for a password. WebSockets pass, with the headers of
// their handshake alone. A browser that says (Sec-Fetch-Dest) that it loads such an address as a page of its own is refused, so what a pod serves is only
// seen below the page's line that says whose it is; and so is a request for the page itself, so that no script of a pod counts as the page's own.
//
// # Bounds
//
// A sign-in's body is at most 64 KiB, a credential 12 KiB. Attempts to sign in are limited for each client address and altogether (limit.go). Streams
// (watches, logs, shells) end with the session.
package dashboard
