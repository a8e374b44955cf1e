package manifests_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/api/extension/admission/manifests"
)

// TestOpen: without directories there is nothing to do; what cannot be read is an error that names the plugin.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hooks.yaml"), []byte("{this is no manifest"), 0o600); err != nil {
		t.Fatal(err)
	}
	of := func(text string, err error) func(string) ([]byte, error) {
		return func(plugin string) ([]byte, error) {
			if plugin != "ValidatingAdmissionWebhook" {
				return nil, nil
			}
			return []byte(text), err
		}
	}
	const header = "{apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration"
	if m, err := manifests.Open(of("", nil)); m != nil || err != nil {
		t.Errorf("without configurations: %v, %v", m, err)
	}
	for what, config := range map[string]func(string) ([]byte, error){
		"a configuration that cannot be read": of("", errors.New("gone")),
		"a configuration of another kind":     of("{apiVersion: apiserver.config.k8s.io/v1, kind: ValidatingAdmissionPolicyConfiguration}", nil),
		"credentials that are not there":      of(header+", kubeConfigFile: "+filepath.Join(dir, "missing")+"}", nil),
		"credentials at a relative path":      of(header+", kubeConfigFile: kubeconfig}", nil),
		"a directory that is not there":       of(header+", staticManifestsDir: "+filepath.Join(dir, "missing")+"}", nil),
		"a file that is no manifest":          of(header+", staticManifestsDir: "+dir+"}", nil),
	} {
		if _, err := manifests.Open(config); err == nil || !strings.HasPrefix(err.Error(), "ValidatingAdmissionWebhook: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, plugin := range manifests.Plugins {
		wrong := func(of string) ([]byte, error) {
			if of != plugin {
				return nil, nil
			}
			return []byte("{apiVersion: v1, kind: Nonsense}"), nil
		}
		if _, err := manifests.Open(wrong); err == nil || !strings.HasPrefix(err.Error(), plugin+": ") {
			t.Errorf("%s with a configuration of no known kind: %v", plugin, err)
		}
	}
}
