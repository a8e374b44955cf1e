package kms

import (
	"fmt"
	"strings"
	"time"

	apiserverconfig "k8s.io/apiserver/pkg/apis/apiserver"
	apiserverconfigv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"sigs.k8s.io/yaml"
)

// Config is one plugin.
type Config struct {
	Name     string
	Socket   string // the path of its unix socket
	Timeout  time.Duration
	Endpoint string
}

// maxTimeout limits the configured time for one call: a write that needs the plugin must end before its request does.
const maxTimeout = 30 * time.Second

// Parse reads an EncryptionConfiguration (apiserver.config.k8s.io/v1). The first plugin encrypts; the others decrypt what they encrypted
// before. What Kontiki does not do is an error.
func Parse(data []byte) ([]Config, error) {
	var file apiserverconfigv1.EncryptionConfiguration
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return nil, err
	}
	if file.Kind != "EncryptionConfiguration" || file.APIVersion != apiserverconfigv1.SchemeGroupVersion.String() {
		return nil, fmt.Errorf("%s %s is not an EncryptionConfiguration of %s", file.APIVersion, file.Kind, apiserverconfigv1.SchemeGroupVersion)
	}
	for _, resource := range file.Resources {
		for _, provider := range resource.Providers {
			if provider.KMS != nil {
				apiserverconfigv1.SetDefaults_KMSConfiguration(provider.KMS)
			}
		}
	}
	var config apiserverconfig.EncryptionConfiguration
	if err := apiserverconfigv1.Convert_v1_EncryptionConfiguration_To_apiserver_EncryptionConfiguration(&file, &config, nil); err != nil {
		return nil, err
	}
	if errs := validation.ValidateEncryptionConfiguration(&config, false); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	if len(config.Resources) != 1 || len(config.Resources[0].Resources) != 1 || config.Resources[0].Resources[0] != "secrets" {
		return nil, fmt.Errorf("resources: only secrets are encrypted: there must be one element, for secrets alone")
	}
	var out []Config
	for i, provider := range config.Resources[0].Providers {
		at := fmt.Sprintf("resources[0].providers[%d]", i)
		switch {
		case provider.Identity != nil:
			return nil, fmt.Errorf("%s: identity is not supported: Secrets are never stored without encryption", at)
		case provider.KMS == nil:
			return nil, fmt.Errorf("%s: only kms is supported; without a KMS plugin, Secrets are encrypted with keys of the cluster's own, see `kontiki secrets rotate`", at)
		case provider.KMS.APIVersion != "v2":
			return nil, fmt.Errorf("%s.kms.apiVersion: %s is not supported, only v2 is", at, provider.KMS.APIVersion)
		case provider.KMS.Timeout.Duration > maxTimeout:
			return nil, fmt.Errorf("%s.kms.timeout: must be at most %s", at, maxTimeout)
		}
		socket := strings.TrimPrefix(provider.KMS.Endpoint, "unix://")
		if socket == provider.KMS.Endpoint || socket == "" || socket[0] != '/' && socket[0] != '@' {
			return nil, fmt.Errorf("%s.kms.endpoint: %q must be unix:// and an absolute path", at, provider.KMS.Endpoint)
		}
		out = append(out, Config{Name: provider.KMS.Name, Socket: socket, Timeout: provider.KMS.Timeout.Duration, Endpoint: provider.KMS.Endpoint})
	}
	return out, nil
}
