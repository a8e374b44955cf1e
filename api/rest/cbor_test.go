package rest_test

import (
	"strings"
	"testing"

	"github.com/kontiki/kontiki/test/harness"
)

// TestCBORIsNotServed: its feature gate CBORServingAndStorage is alpha and off in Kubernetes v1.37. Clients that offer it fall back to what
// they offer beside it, as client-go does.
func TestCBORIsNotServed(t *testing.T) {
	config := harness.New(t).Config("admin", "system:masters")
	const media = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
	for _, path := range []string{configMapsPath, configMapsPath + "?watch=1"} {
		if code, body := raw(t, config, "GET", path, "", nil, "Accept", "application/cbor"); code != 406 || !strings.Contains(body, media) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if code, body := raw(t, config, "GET", configMapsPath, "", nil, "Accept", "application/cbor, application/json;q=0.9"); code != 200 || !strings.HasPrefix(body, `{"kind":"ConfigMapList"`) {
		t.Errorf("%d %s", code, body)
	}
	const unsupported = "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"
	for _, method := range []string{"POST", "PUT"} {
		path := configMapsPath
		if method == "PUT" {
			path += "/a"
		}
		if code, body := raw(t, config, method, path, "application/cbor", []byte("\xd9\xd9\xf7\xa0")); code != 415 || !strings.Contains(body, unsupported) {
			t.Errorf("%s: %d %s", method, code, body)
		}
	}
	if code, body := raw(t, config, "PATCH", configMapsPath+"/a?fieldManager=m", "application/apply-patch+cbor", []byte("\xd9\xd9\xf7\xa0")); code != 415 || strings.Contains(body, "cbor,") {
		t.Errorf("apply: %d %s", code, body)
	}
}
