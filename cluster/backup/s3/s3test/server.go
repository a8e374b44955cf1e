// Package s3test serves a bucket in memory by as much of S3's protocol as backups need, for tests. It checks the signature of each request
// (AWS Signature Version 4).
package s3test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// The credentials that are accepted, and the bucket.
const (
	AccessKey, SecretKey = "AKIDEXAMPLE", "secret/of+tests"
	Bucket, Region       = "backups", "eu-test-1"
)

// Server is a bucket. Its fields may be set before the first request.
type Server struct {
	*httptest.Server
	mu      sync.Mutex
	objects map[string][]byte
	parts   map[string]map[int][]byte // of uploads that are not complete
	// Refuse makes the next requests fail, as many as it says.
	refuse int
}

// New returns a server, which stops with the test.
func New(t testing.TB) *Server {
	s := &Server{objects: map[string][]byte{}, parts: map[string]map[int][]byte{}}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	return s
}

// Credentials writes a file with the credentials, and returns its path.
func Credentials(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", AccessKey, SecretKey), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Objects returns the keys, in order.
func (s *Server) Objects() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects))
}

// Object returns the content of an object.
func (s *Server) Object(key string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects[key]
}

// Refuse makes the next n requests fail with 403.
func (s *Server) Refuse(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = n
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := checkSignature(r); err != nil {
		failed(w, http.StatusForbidden, "SignatureDoesNotMatch", err.Error())
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<20))
	if err != nil {
		failed(w, http.StatusBadRequest, "IncompleteBody", err.Error())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse > 0 {
		s.refuse--
		failed(w, http.StatusForbidden, "AccessDenied", "not now")
		return
	}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if bucket != Bucket {
		failed(w, http.StatusNotFound, "NoSuchBucket", bucket)
		return
	}
	q := r.URL.Query()
	switch upload := q.Get("uploadId"); {
	case r.Method == http.MethodGet && key == "":
		s.list(w, q)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		data, ok := s.objects[key]
		if !ok {
			failed(w, http.StatusNotFound, "NoSuchKey", key)
			return
		}
		w.Header().Set("ETag", etag(data))
		w.Header().Set("Last-Modified", "Wed, 02 Jan 2030 03:04:05 GMT")
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		if r.Method == http.MethodGet {
			w.Write(data)
		}
	case r.Method == http.MethodPost && q.Has("uploads"):
		s.parts[key] = map[int][]byte{}
		answer(w, struct {
			XMLName               xml.Name `xml:"InitiateMultipartUploadResult"`
			Bucket, Key, UploadId string
		}{Bucket: Bucket, Key: key, UploadId: key})
	case r.Method == http.MethodPut && upload != "":
		n, err := strconv.Atoi(q.Get("partNumber"))
		if err != nil || s.parts[upload] == nil {
			failed(w, http.StatusBadRequest, "InvalidPart", q.Get("partNumber"))
			return
		}
		s.parts[upload][n] = body
		w.Header().Set("ETag", etag(body))
	case r.Method == http.MethodPost && upload != "":
		var all []byte
		for _, n := range slices.Sorted(maps.Keys(s.parts[upload])) {
			all = append(all, s.parts[upload][n]...)
		}
		delete(s.parts, upload)
		s.objects[key] = all
		answer(w, struct {
			XMLName           xml.Name `xml:"CompleteMultipartUploadResult"`
			Bucket, Key, ETag string
		}{Bucket: Bucket, Key: key, ETag: etag(all)})
	case r.Method == http.MethodPut:
		s.objects[key] = body
		w.Header().Set("ETag", etag(body))
	case r.Method == http.MethodDelete:
		delete(s.objects, key)
		w.WriteHeader(http.StatusNoContent)
	default: // the rest of S3's protocol, which backups do not use; so S3 answers what it does not have
		failed(w, http.StatusNotImplemented, "NotImplemented", r.Method+" "+r.URL.String())
	}
}

func (s *Server) list(w http.ResponseWriter, q url.Values) {
	type contents struct {
		Key, LastModified, ETag string
		Size                    int
	}
	result := struct {
		XMLName     xml.Name `xml:"ListBucketResult"`
		Name        string
		IsTruncated bool
		Contents    []contents
	}{Name: Bucket}
	for _, key := range slices.Sorted(maps.Keys(s.objects)) {
		if strings.HasPrefix(key, q.Get("prefix")) {
			result.Contents = append(result.Contents, contents{key, "2030-01-02T03:04:05Z", etag(s.objects[key]), len(s.objects[key])})
		}
	}
	answer(w, result)
}

func etag(data []byte) string {
	sum := sha256.Sum256(data)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(v) // an error means that the client has gone
}

func failed(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(code)
	_ = xml.NewEncoder(w).Encode(struct {
		XMLName       xml.Name `xml:"Error"`
		Code, Message string
	}{Code: reason, Message: message})
}

// checkSignature computes the signature of a request's headers
// (https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html) and compares it with the one that was sent.
func checkSignature(r *http.Request) error {
	rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !ok {
		return fmt.Errorf("no signature: %q", r.Header.Get("Authorization"))
	}
	fields := map[string]string{}
	for _, f := range strings.Split(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(f), "=")
		fields[name] = value
	}
	scope, ok := strings.CutPrefix(fields["Credential"], AccessKey+"/")
	parts := strings.Split(scope, "/")
	if !ok || len(parts) != 4 || parts[1] != Region || parts[2] != "s3" {
		return fmt.Errorf("unknown credential %q", fields["Credential"])
	}
	var canonical strings.Builder
	query := strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20") // sorted by name
	fmt.Fprintf(&canonical, "%s\n%s\n%s\n", r.Method, r.URL.EscapedPath(), query)
	for _, name := range strings.Split(fields["SignedHeaders"], ";") {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		fmt.Fprintf(&canonical, "%s:%s\n", name, strings.TrimSpace(value))
	}
	fmt.Fprintf(&canonical, "\n%s\n%s", fields["SignedHeaders"], r.Header.Get("X-Amz-Content-Sha256"))
	sum := sha256.Sum256([]byte(canonical.String()))
	key := []byte("AWS4" + SecretKey)
	for _, part := range append(parts, "AWS4-HMAC-SHA256\n"+r.Header.Get("X-Amz-Date")+"\n"+scope+"\n"+hex.EncodeToString(sum[:])) {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	if want := hex.EncodeToString(key); want != fields["Signature"] {
		return fmt.Errorf("signature %s, want %s of\n%s", fields["Signature"], want, canonical.String())
	}
	return nil
}
