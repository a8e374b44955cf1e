package dashboard

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	maxSignIn     = 64 << 10
	challengeLife = 2 * time.Minute
	// anonymous is the user of requests without a credential.
	anonymous = "system:anonymous"
)

// signInRequest is the body of a sign-in: a token, or a certificate with the signature of a challenge. Without either, the certificate that the
// browser presented in TLS is used.
type signInRequest struct {
	Token string `json:"token,omitempty"`
	// Certificate is the client's certificate in PEM, which may be followed by those of intermediate CAs.
	Certificate string `json:"certificate,omitempty"`
	Challenge   string `json:"challenge,omitempty"`
	// Signature is of signedText, with the certificate's key: RSASSA-PKCS1-v1_5 with SHA-256, ECDSA with SHA-256 as r and s in sequence, or
	// Ed25519, as WebCrypto makes them.
	Signature []byte `json:"signature,omitempty"`
}

// who is the answer to who is signed in.
type who struct {
	User   string   `json:"user"`
	Groups []string `json:"groups"`
	// Secret must be in the header X-Kontiki-Session of each request.
	Secret string `json:"secret"`
	// Idle is when the session ends if the user does not touch the page, Ends when it ends in any case.
	Idle time.Time `json:"idle"`
	Ends time.Time `json:"ends"`
}

type challenge struct {
	Random  string `json:"r"`
	Expires int64  `json:"e"`
}

// signedText is what the page signs: the challenge, for this origin.
func signedText(origin, challenge string) string {
	return "kontiki dashboard sign-in\n" + origin + "\n" + challenge
}

func (d *Dashboard) challenge(w http.ResponseWriter, r *http.Request) {
	if err := fromOurPage(r); err != nil {
		problem(w, http.StatusForbidden, "Forbidden", err.Error())
		return
	}
	random, err := randomSecret()
	if err != nil {
		problem(w, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	sealed, err := d.seal(forChallenge, challenge{random, d.Now().Add(challengeLife).Unix()})
	if err != nil {
		problem(w, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	at := ""
	if d.issuer != nil {
		at = d.issuer.Issuer
	}
	answer(w, map[string]any{"challenge": sealed, "certificate": r.TLS != nil && len(r.TLS.PeerCertificates) > 0, "issuer": at})
}

func (d *Dashboard) signIn(w http.ResponseWriter, r *http.Request) {
	if err := fromOurPage(r); err != nil {
		problem(w, http.StatusForbidden, "Forbidden", err.Error())
		return
	}
	if !d.attempts.allow(r.RemoteAddr) {
		w.Header().Set("Retry-After", "5")
		problem(w, http.StatusTooManyRequests, "TooManyRequests", "too many attempts to sign in; wait a few seconds")
		return
	}
	s, err := d.credential(w, r)
	if err != nil {
		problem(w, http.StatusBadRequest, "BadRequest", err.Error())
		return
	}
	info, err := d.identify(r.Context(), r, s)
	if err != nil {
		d.clients.Info("refused a sign-in to the dashboard", "remote", r.RemoteAddr, "reason", err)
		refuse(w, err)
		return
	}
	if err := d.begin(w, r, s); err != nil {
		problem(w, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	d.Log.Info("a user signed in to the dashboard", "user", info.Username, "remote", r.RemoteAddr)
	answer(w, described(s, info))
}

// begin makes a session whose credential was accepted the browser's.
func (d *Dashboard) begin(w http.ResponseWriter, r *http.Request, s *session) (err error) {
	if s.Secret, err = randomSecret(); err != nil {
		return err
	}
	s.Began = d.Now().Unix()
	s.Seen = s.Began
	return d.keep(w, r, s)
}

func described(s *session, info *authenticationv1.UserInfo) who {
	idle, last := s.ends()
	return who{User: info.Username, Groups: info.Groups, Secret: s.Secret, Idle: idle.UTC(), Ends: last.UTC()}
}

// refuse answers with the error of who a user is.
func refuse(w http.ResponseWriter, err error) {
	var status apierrors.APIStatus
	switch {
	case errors.Is(err, errNoSession), apierrors.IsUnauthorized(err):
		problem(w, http.StatusUnauthorized, "Unauthorized", "the cluster does not accept this credential: it is unknown, has expired, or was revoked")
	case errors.As(err, &status):
		problem(w, int(status.Status().Code), string(status.Status().Reason), status.Status().Message)
	default:
		problem(w, http.StatusServiceUnavailable, "ServiceUnavailable", err.Error())
	}
}

// credential returns a session with the credential that the request has, which is not authenticated yet. That a certificate's key is the
// client's has been checked.
func (d *Dashboard) credential(w http.ResponseWriter, r *http.Request) (*session, error) {
	var request signInRequest
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxSignIn))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		return nil, fmt.Errorf("the body must be a JSON object with a token, or a certificate and the signature of a challenge: %w", err)
	}
	token := strings.TrimSpace(request.Token)
	switch {
	case len(token) > maxCredential:
		return nil, fmt.Errorf("token: it is longer than %d bytes", maxCredential)
	case token != "" && request.Certificate != "":
		return nil, errors.New("token: give either a token or a certificate")
	case strings.ContainsAny(token, " \t\r\n"):
		return nil, errors.New("token: it contains white space; copy it in one line")
	case token != "":
		return &session{Token: token}, nil
	case request.Certificate != "":
		chain, err := parseChain(request.Certificate)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		if err := d.checkSignature(r, &request, chain[0]); err != nil {
			return nil, err
		}
		return &session{Chain: raw(chain)}, nil
	case r.TLS != nil && len(r.TLS.PeerCertificates) > 0:
		s := &session{Chain: raw(r.TLS.PeerCertificates)}
		return s, bounded(s.Chain)
	}
	return nil, errors.New("token: give a token, a certificate, or choose a certificate when the browser asks")
}

func raw(chain []*x509.Certificate) (der [][]byte) {
	for _, c := range chain {
		der = append(der, c.Raw)
	}
	return der
}

func bounded(chain [][]byte) error {
	length := 0
	for _, der := range chain {
		length += len(der)
	}
	if length > maxCredential {
		return fmt.Errorf("certificate: with its chain it is longer than %d bytes", maxCredential)
	}
	return nil
}

func parseChain(text string) (chain []*x509.Certificate, err error) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block of type %q, where only certificates may be", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, errors.New("there is no PEM block of a certificate")
	}
	return chain, bounded(raw(chain))
}

// checkSignature checks that the client has the key of a certificate.
func (d *Dashboard) checkSignature(r *http.Request, request *signInRequest, certificate *x509.Certificate) error {
	var c challenge
	if err := d.open(forChallenge, request.Challenge, &c); err != nil {
		return fmt.Errorf("challenge: %w", err)
	}
	if d.Now().Unix() > c.Expires {
		return errors.New("challenge: it has expired; try again")
	}
	text := []byte(signedText("https://"+r.Host, request.Challenge))
	digest := sha256.Sum256(text)
	valid := false
	switch key := certificate.PublicKey.(type) {
	case *rsa.PublicKey:
		valid = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], request.Signature) == nil
	case *ecdsa.PublicKey:
		if half := len(request.Signature) / 2; half > 0 && len(request.Signature)%2 == 0 && half <= 66 {
			valid = ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(request.Signature[:half]), new(big.Int).SetBytes(request.Signature[half:]))
		}
	case ed25519.PublicKey:
		valid = ed25519.Verify(key, text, request.Signature)
	default:
		return fmt.Errorf("certificate: keys of the type %T are not supported", key)
	}
	if !valid {
		return errors.New("signature: the key is not that of the certificate")
	}
	return nil
}

// identify returns who a session's credential stands for.
func (d *Dashboard) identify(ctx context.Context, r *http.Request, s *session) (*authenticationv1.UserInfo, error) {
	client, err := d.client(r, s)
	if err != nil {
		return nil, err
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	if review.Status.UserInfo.Username == anonymous {
		return nil, errNoSession
	}
	return &review.Status.UserInfo, nil
}

// whoIs says who is signed in, and notes that the user is there.
func (d *Dashboard) whoIs(w http.ResponseWriter, r *http.Request) {
	if err := fromOurPage(r); err != nil {
		problem(w, http.StatusForbidden, "Forbidden", err.Error())
		return
	}
	s, err := d.session(r)
	if err != nil {
		problem(w, http.StatusUnauthorized, "Unauthorized", err.Error())
		return
	}
	info, err := d.identify(r.Context(), r, s)
	if err != nil {
		if apierrors.IsUnauthorized(err) {
			drop(w, r)
		}
		refuse(w, err)
		return
	}
	if now := d.Now(); now.Sub(time.Unix(s.Seen, 0)) > renewAfter {
		s.Seen = now.Unix()
		if err := d.keep(w, r, s); err != nil {
			problem(w, http.StatusInternalServerError, "InternalError", err.Error())
			return
		}
	}
	answer(w, described(s, info))
}

func (d *Dashboard) signOut(w http.ResponseWriter, r *http.Request) {
	if err := fromOurPage(r); err != nil {
		problem(w, http.StatusForbidden, "Forbidden", err.Error())
		return
	}
	drop(w, r)
	w.Header().Set("Clear-Site-Data", `"cache"`)
	answer(w, map[string]any{})
}

// secretHeader is the header with the session's secret.
const secretHeader = "X-Kontiki-Session"

// fromOurPage returns an error if a request may come from a page of another origin. Such a page cannot set the header without a preflight, which is
// never answered.
func fromOurPage(r *http.Request) error {
	if err := sameOrigin(r, false); err != nil {
		return err
	}
	if _, ok := r.Header[secretHeader]; !ok {
		return fmt.Errorf("the header %s is missing", secretHeader)
	}
	return nil
}

// sameOrigin returns an error if the request says that it comes from another origin, or, if it must say so, does not say that it comes from this one.
func sameOrigin(r *http.Request, must bool) error {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return fmt.Errorf("requests from other sites are refused (Sec-Fetch-Site: %s)", site)
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		if must {
			return errors.New("the header Origin is missing")
		}
		return nil
	}
	u, err := url.Parse(origin)
	if err != nil || u.Scheme != "https" || !strings.EqualFold(u.Host, r.Host) {
		return errors.New("requests from other origins are refused")
	}
	return nil
}

// proves says whether a request has the session's secret.
func (s *session) proves(secret string) bool {
	return s.Secret != "" && subtle.ConstantTimeCompare([]byte(s.Secret), []byte(secret)) == 1
}
