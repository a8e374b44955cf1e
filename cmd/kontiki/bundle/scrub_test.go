package bundle

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestNothingSecretIsLeft: objects with the word "seed" wherever people keep secrets.
func TestNothingSecretIsLeft(t *testing.T) {
	for name, text := range map[string]string{
		"secret":    `{"kind":"Secret","metadata":{"name":"s","managedFields":[{"x":"seed"}]},"data":{"k":"seed"},"stringData":{"k":"seed"}}`,
		"configmap": `{"kind":"ConfigMap","data":{"k":"seed"},"binaryData":{"k":"seed"}}`,
		"annotations": `{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"seed","example.com/a":"seed","x":"seed",
			"deployment.kubernetes.io/revision":"kept"}}}`,
		"pod": `{"spec":{"containers":[{"name":"kept","image":"kept","env":[{"name":"kept","value":"seed"},{"name":"b","valueFrom":{"secretKeyRef":{"name":"kept","key":"k"}}}],
			"args":["--password=seed"],"command":["sh","-c","seed"],
			"livenessProbe":{"httpGet":{"httpHeaders":[{"name":"Authorization","value":"seed"}]},"exec":{"command":["seed"]}},
			"lifecycle":{"preStop":{"exec":{"command":["seed"]}}}}],
			"initContainers":[{"env":[{"name":"a","value":"seed"}]}],"ephemeralContainers":[{"args":["seed"]}],
			"volumes":[{"csi":{"driver":"kept","volumeAttributes":{"password":"seed"}}},{"flexVolume":{"options":{"k":"seed"}}}]}}`,
		"template": `{"spec":{"jobTemplate":{"spec":{"template":{"metadata":{"annotations":{"a":"seed"}},"spec":{"containers":[{"env":[{"value":"seed"}]}]}}}}}}`,
		"odd":      `{"data":"seed","stringData":["seed"],"spec":{"env":"x","args":"kept"},"binaryData":{"k":{"deep":"seed"}}}`,
		"ended":    `{"status":{"containerStatuses":[{"state":{"terminated":{"reason":"kept","message":"seed"}}}]}}`,
		"class":    `{"parameters":{"secret":"seed"}}`,
		"request":  `{"spec":{"request":"seed"},"status":{"certificate":"seed","token":"seed"}}`,
	} {
		var object map[string]any
		if err := json.Unmarshal([]byte(text), &object); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		scrub(object)
		data, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), "seed") {
			t.Errorf("%s: %s", name, data)
		}
		if kept := strings.Count(text, `"kept"`); strings.Count(string(data), `"kept"`) != kept && name != "odd" {
			t.Errorf("%s: not all that is no secret is left: %s", name, data)
		}
	}
}

func TestTokensInLogs(t *testing.T) {
	for _, line := range []string{"Authorization: Bearer seed.a.b", `token="seed"`, "password: seed", `"password":"seed"`, "joining with K10seed.abc", "--token=seed", "--token K10seed"} {
		if got := string(inText.ReplaceAll([]byte(line), []byte("${1}"+hidden))); strings.Contains(got, "seed") {
			t.Errorf("%q becomes %q", line, got)
		}
	}
	const plain = "INFO worker connected node=w1"
	if got := string(inText.ReplaceAll([]byte(plain), []byte("${1}"+hidden))); got != plain {
		t.Errorf("%q becomes %q", plain, got)
	}
}
