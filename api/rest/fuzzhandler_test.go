package rest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/test/harness"
)

// fuzzPatience ends watches, and requests that would wait.
const fuzzPatience = 200 * time.Millisecond

// fuzzedPaths are paths of all sorts.
var fuzzedPaths = []string{
	"/", "/api", "/apis", "/api/v1", "/apis/apps/v1", "/version", "/healthz", "/readyz/ping", "/livez", "/openapi/v2", "/openapi/v3", "/openapi/v3/apis/apps/v1", "/openid/v1/jwks",
	"/.well-known/openid-configuration", "/metrics", "/kontiki/v1/transactions", "/api/v1/namespaces", "/api/v1/namespaces/default", "/api/v1/namespaces/default/finalize",
	"/api/v1/namespaces/default/status", "/api/v1/namespaces/default/configmaps", "/api/v1/namespaces/default/configmaps/a", "/api/v1/watch/configmaps", "/api/v1/watch/namespaces/default/secrets/a",
	"/api/v1/namespaces/default/pods/p/exec", "/api/v1/namespaces/default/pods/p/log", "/api/v1/namespaces/default/pods/p/proxy/x", "/api/v1/namespaces/default/pods/p/binding", "/api/v1/namespaces/default/pods/p/eviction",
	"/api/v1/namespaces/default/pods/p/resize", "/api/v1/namespaces/default/pods/p/ephemeralcontainers", "/api/v1/namespaces/default/bindings", "/api/v1/namespaces/default/services/s:80/proxy/", "/api/v1/nodes/n/proxy/x",
	"/api/v1/componentstatuses", "/api/v1/namespaces/default/serviceaccounts/default/token", "/apis/apps/v1/namespaces/default/deployments/d/scale", "/apis/apps/v1/deployments",
	"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "/apis/authentication.k8s.io/v1/tokenreviews", "/apis/rbac.authorization.k8s.io/v1/clusterroles/view", "/apis/certificates.k8s.io/v1/certificatesigningrequests/c/approval",
	"//api//v1", "/api/v1/namespaces//pods", "/api/v1/%2e%2e/x", "/api/v1/namespaces/default/configmaps/\x00", "/api/v1/namespaces/" + strings.Repeat("a", 300) + "/pods", "/apis/apps/v1/namespaces/default/deployments/" + strings.Repeat("%", 40),
}

// fuzzed answers requests to the whole handler as an administrator's, whose requests reach furthest.
type fuzzed struct{ handler http.Handler }

func newFuzzed(f *testing.F) *fuzzed {
	h := harness.New(f)
	for _, obj := range fuzzedObjects() {
		raw, err := runtime.Encode(registry.Codecs.LegacyCodec(obj.GetObjectKind().GroupVersionKind().GroupVersion()), obj)
		if err != nil {
			f.Fatal(err)
		}
		r := httptest.NewRequest("POST", fuzzedPath(obj), strings.NewReader(string(raw)))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		if h.AsAdmin().ServeHTTP(w, r); w.Code != http.StatusCreated {
			f.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	return &fuzzed{h.AsAdmin()}
}

// send fails the test for a panic and for an internal error.
func (f *fuzzed) send(t *testing.T, method, path, query, body string, headers ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), fuzzPatience)
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, "GET", "/", strings.NewReader(body))
	r.Method, r.URL = method, &url.URL{Path: path, RawQuery: query}
	r.RequestURI = r.URL.RequestURI()
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	if w.Code == http.StatusInternalServerError {
		t.Errorf("%s %q?%q %q: %d %s", method, path, query, headers, w.Code, w.Body)
	}
}

func fuzzedObjects() []registry.Object {
	typed := func(obj registry.Object, apiVersion, kind string) registry.Object {
		obj.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(apiVersion, kind))
		return obj
	}
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"a": "b"}}
	}
	spec := corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}}
	return []registry.Object{
		typed(&corev1.ConfigMap{ObjectMeta: meta("a"), Data: map[string]string{"k": "1"}}, "v1", "ConfigMap"),
		typed(&corev1.Secret{ObjectMeta: meta("a"), Data: map[string][]byte{"k": []byte("1")}}, "v1", "Secret"),
		typed(&corev1.Pod{ObjectMeta: meta("p"), Spec: spec}, "v1", "Pod"),
		typed(&corev1.Service{ObjectMeta: meta("s"), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, "v1", "Service"),
		typed(&appsv1.Deployment{ObjectMeta: meta("d"), Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: spec}}}, "apps/v1", "Deployment"),
		typed(&rbacv1.Role{ObjectMeta: meta("r"), Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}}, "rbac.authorization.k8s.io/v1", "Role"),
	}
}

func fuzzedPath(obj registry.Object) string {
	gvk := obj.GetObjectKind().GroupVersionKind()
	root := "/apis/" + gvk.GroupVersion().String()
	if gvk.Group == "" {
		root = "/api/v1"
	}
	return root + "/namespaces/default/" + strings.ToLower(gvk.Kind) + "s"
}

// FuzzPaths sends requests with arbitrary methods, paths and queries.
func FuzzPaths(f *testing.F) {
	queries := []string{"", "watch=1", "watch=true&resourceVersion=1&timeoutSeconds=1&allowWatchBookmarks=true", "limit=1", "limit=-1&continue=x", "labelSelector=a+in+(b,c),!d&fieldSelector=metadata.name%3Da",
		"resourceVersion=0&resourceVersionMatch=NotOlderThan", "resourceVersion=99999999999999999999", "sendInitialEvents=true&watch=1&resourceVersionMatch=NotOlderThan", "dryRun=All&fieldManager=m&fieldValidation=Strict",
		"pretty=1", "gracePeriodSeconds=-1&propagationPolicy=X&orphanDependents=maybe", "command=id&stdin=1&tty=x&container=c", "tailLines=-1&sinceSeconds=x&limitBytes=0", "includeObject=None", "%zz", "a=%00;b", "timeout=1ns"}
	for i, path := range fuzzedPaths {
		for j, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "X"} {
			f.Add(method, path, queries[(i+j)%len(queries)], []string{"application/json", "application/vnd.kubernetes.protobuf", "application/json;as=Table;g=meta.k8s.io;v=v1", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", "application/cbor", "*/*", ";;"}[(i+j)%7])
		}
	}
	z := newFuzzed(f)
	f.Fuzz(func(t *testing.T, method, path, query, accept string) {
		z.send(t, method, path, query, "", "Accept", accept)
	})
}

// FuzzBodies sends arbitrary bodies under arbitrary media types.
func FuzzBodies(f *testing.F) {
	for _, obj := range fuzzedObjects() {
		raw, err := runtime.Encode(registry.Codecs.LegacyCodec(obj.GetObjectKind().GroupVersionKind().GroupVersion()), obj)
		if err != nil {
			f.Fatal(err)
		}
		binary, err := direct.Marshal(obj)
		if err != nil {
			f.Fatal(err)
		}
		for _, method := range []string{"POST", "PUT"} {
			path := fuzzedPath(obj)
			if method == "PUT" {
				path += "/" + obj.GetName()
			}
			for at := 0; at < len(raw); at += 37 {
				f.Add(method, path, "application/json", string(raw[:at])+"null"+string(raw[at:]))
				f.Add(method, path, "application/yaml", string(raw[:at]))
			}
			f.Add(method, path, "application/json", string(raw))
			f.Add(method, path, "application/cbor", string(binary))
		}
	}
	for _, body := range []string{`{"apiVersion":"v1","kind":"DeleteOptions","gracePeriodSeconds":-1}`, `{"kind":"Scale"}`, `{"kind":"Eviction"}`, `[]`, `{}`, "a: &a [*a]", strings.Repeat("[", 20000)} {
		for _, path := range fuzzedPaths {
			f.Add("POST", path, "application/json", body)
			f.Add("DELETE", path, "application/json", body)
		}
	}
	z := newFuzzed(f)
	f.Fuzz(func(t *testing.T, method, path, contentType, body string) {
		z.send(t, method, path, "dryRun=All", body, "Content-Type", contentType)
		z.send(t, method, path, "fieldValidation=Strict&fieldManager=m", body, "Content-Type", contentType)
	})
}

// FuzzPatches sends arbitrary patches of every kind.
func FuzzPatches(f *testing.F) {
	types := []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml", "application/apply-patch+cbor", "application/json"}
	patches := []string{
		`[{"op":"add","path":"/metadata/labels/x","value":"y"},{"op":"copy","from":"/spec","path":"/spec/x"},{"op":"test","path":"/metadata/name","value":"a"}]`, `[{"op":"move","from":"","path":"/x"}]`, `[{"op":"remove","path":"/metadata"}]`,
		`{"metadata":{"labels":null,"annotations":{"a":"b"}},"data":{"k":null}}`, `{"spec":{"template":{"spec":{"containers":[{"name":"c","$patch":"delete"},{"$setElementOrder/ports":[]}]}}}}`,
		`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"2"}}`, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"replicas":3}}`, `{"metadata":{"managedFields":[{"manager":"x"}]}}`,
		`{"spec":{"replicas":1e400}}`, `{"metadata":{"resourceVersion":"x","uid":7}}`, `{"spec":{"$retainKeys":["a"],"strategy":{"$patch":"replace"}}}`, `null`, `[]`, `{}`, `"x"`, `[null]`, `{"$patch":"delete"}`, "{", "\x00",
	}
	paths := []string{}
	for _, obj := range fuzzedObjects() {
		paths = append(paths, fuzzedPath(obj)+"/"+obj.GetName())
	}
	paths = append(paths, "/apis/apps/v1/namespaces/default/deployments/d/scale", "/apis/apps/v1/namespaces/default/deployments/d/status", "/api/v1/namespaces/default/pods/p/resize", "/api/v1/namespaces/default/pods/p/ephemeralcontainers", "/api/v1/namespaces/default/configmaps/new")
	for i := range types {
		for j := range patches {
			f.Add(uint8(i), uint8((i+j)%len(paths)), patches[j])
			f.Add(uint8(i), uint8((i*3+j)%len(paths)), patches[j])
		}
	}
	z := newFuzzed(f)
	f.Fuzz(func(t *testing.T, as, at uint8, patch string) {
		contentType, path := types[int(as)%len(types)], paths[int(at)%len(paths)]
		z.send(t, "PATCH", path, "fieldManager=m&force=true&dryRun=All", patch, "Content-Type", contentType)
		z.send(t, "PATCH", path, "fieldManager=m", patch, "Content-Type", contentType)
	})
}

// FuzzProtobuf sends arbitrary bytes as Kubernetes protobuf, with the envelope and inside it.
func FuzzProtobuf(f *testing.F) {
	serializer := protobuf.NewSerializer(registry.Scheme, registry.Scheme)
	objects := fuzzedObjects()
	for i, obj := range objects {
		raw, err := runtime.Encode(serializer, obj)
		if err != nil {
			f.Fatal(err)
		}
		inner, err := registry.MarshalProto(obj)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), false, raw)
		f.Add(uint8(i), true, inner)
		for at := 1; at < len(inner); at += 3 {
			f.Add(uint8(i), true, inner[:at])
			f.Add(uint8(i), true, append(append(append([]byte{}, inner[:at]...), 0xff, 0x01), inner[at:]...))
		}
	}
	z := newFuzzed(f)
	f.Fuzz(func(t *testing.T, at uint8, wrapped bool, body []byte) {
		obj := objects[int(at)%len(objects)]
		if wrapped {
			apiVersion, kind := obj.GetObjectKind().GroupVersionKind().ToAPIVersionAndKind()
			envelope, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}, Raw: body}).Marshal()
			if err != nil {
				t.Fatal(err)
			}
			body = append([]byte("k8s\x00"), envelope...)
		}
		z.send(t, "POST", fuzzedPath(obj), "dryRun=All", string(body), "Content-Type", "application/vnd.kubernetes.protobuf")
		z.send(t, "PUT", fuzzedPath(obj)+"/"+obj.GetName(), "", string(body), "Content-Type", "application/vnd.kubernetes.protobuf", "Accept", "application/vnd.kubernetes.protobuf")
	})
}
