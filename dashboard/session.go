package dashboard

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// sessionLife is how long a session lasts, sessionIdle how long it lasts after the user last touched the page.
	sessionLife = 8 * time.Hour
	sessionIdle = time.Hour
	// renewAfter is how old the note of the user's last touch must be for the cookie to be written again.
	renewAfter = time.Minute

	// cookieName is the name of the first cookie; further parts of a long session are in cookieName-1 and so on.
	cookieName  = "__Secure-kontiki"
	cookiePath  = Root + "/"
	cookiePart  = 3800 // browsers keep cookies of 4,096 bytes with their names and attributes
	cookieParts = 6

	// maxCredential is the largest token, or certificate with its chain.
	maxCredential = 12 << 10
)

// session is what the cookie has, sealed.
type session struct {
	// Token or Chain (DER, the client's certificate first) is the credential.
	Token string   `json:"t,omitempty"`
	Chain [][]byte `json:"c,omitempty"`
	// Secret is what the page proves with that a request is its own.
	Secret string `json:"s"`
	// Began and Seen are Unix times: of the sign-in, and of the user's last touch.
	Began int64 `json:"b"`
	Seen  int64 `json:"l"`
}

// ends returns when the session ends if the user does not touch the page again, and in any case.
func (s *session) ends() (idle, last time.Time) {
	last = time.Unix(s.Began, 0).Add(sessionLife)
	if idle = time.Unix(s.Seen, 0).Add(sessionIdle); idle.After(last) {
		idle = last
	}
	return idle, last
}

// What a sealed value is for, so that one cannot be used as the other.
const (
	forSession   = "kontiki dashboard session 1"
	forChallenge = "kontiki dashboard challenge 1"
)

func sealingCipher(key []byte, use string) (cipher.AEAD, error) {
	derived, err := hkdf.Key(sha256.New, key, nil, use, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// seal encrypts a value for all masters. Its form is NAME.BASE64 with the name of the cluster's secret key.
func (d *Dashboard) seal(use string, value any) (string, error) {
	plain, err := json.Marshal(value)
	if err != nil {
		return "", err
	}
	name, keys := d.Keys()
	key, ok := keys[name]
	if !ok {
		return "", errors.New("the cluster has no key for sessions")
	}
	aead, err := sealingCipher(key, use)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return "", err
	}
	encoded := base64.RawURLEncoding
	return encoded.EncodeToString([]byte(name)) + "." + encoded.EncodeToString(aead.Seal(nonce, nonce, plain, []byte(use+"\x00"+name))), nil
}

// open decrypts what seal returned.
func (d *Dashboard) open(use, sealed string, value any) error {
	encoded := base64.RawURLEncoding
	first, second, _ := strings.Cut(sealed, ".")
	name, err := encoded.DecodeString(first)
	if err != nil {
		return errors.New("it is damaged")
	}
	data, err := encoded.DecodeString(second)
	if err != nil {
		return errors.New("it is damaged")
	}
	_, keys := d.Keys()
	key, ok := keys[string(name)]
	if !ok {
		return errors.New("the key that it was sealed with is no longer in use")
	}
	aead, err := sealingCipher(key, use)
	if err != nil {
		return err
	}
	if len(data) < aead.NonceSize() {
		return errors.New("it is damaged")
	}
	nonce, data := data[:aead.NonceSize()], data[aead.NonceSize():]
	plain, err := aead.Open(nil, nonce, data, []byte(use+"\x00"+string(name)))
	if err != nil {
		return errors.New("it is damaged, or another cluster's")
	}
	return json.Unmarshal(plain, value)
}

// session returns the session of a request's cookies, or errNoSession.
func (d *Dashboard) session(r *http.Request) (*session, error) {
	var sealed strings.Builder
	for i := range cookieParts {
		part, err := r.Cookie(partName(i))
		if err != nil {
			break
		}
		sealed.WriteString(part.Value)
	}
	if sealed.Len() == 0 {
		return nil, fmt.Errorf("%w: there is no session", errNoSession)
	}
	s := new(session)
	if err := d.open(forSession, sealed.String(), s); err != nil {
		return nil, fmt.Errorf("%w: the session cannot be read: %v", errNoSession, err)
	}
	if idle, _ := s.ends(); !d.Now().Before(idle) {
		return nil, fmt.Errorf("%w: the session has ended", errNoSession)
	}
	return s, nil
}

func partName(i int) string {
	if i == 0 {
		return cookieName
	}
	return cookieName + "-" + strconv.Itoa(i)
}

// keep writes a session into the response's cookies.
func (d *Dashboard) keep(w http.ResponseWriter, r *http.Request, s *session) error {
	sealed, err := d.seal(forSession, s)
	if err != nil {
		return err
	}
	if len(sealed) > cookieParts*cookiePart {
		return errors.New("the credential is too long for a session")
	}
	idle, _ := s.ends()
	for i := range cookieParts {
		part := sealed[:min(len(sealed), cookiePart)]
		sealed = sealed[len(part):]
		cookie := &http.Cookie{Name: partName(i), Value: part, Path: cookiePath, Expires: idle, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode}
		if part == "" {
			if _, err := r.Cookie(cookie.Name); err != nil {
				continue
			}
			cookie.MaxAge = -1 // of a longer session before
		}
		http.SetCookie(w, cookie)
	}
	return nil
}

// drop ends the session in the browser.
func drop(w http.ResponseWriter, r *http.Request) {
	for i := range cookieParts {
		if _, err := r.Cookie(partName(i)); err == nil {
			http.SetCookie(w, &http.Cookie{Name: partName(i), Path: cookiePath, MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
		}
	}
}

func randomSecret() (string, error) {
	b := make([]byte, 24)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(b), nil
}
