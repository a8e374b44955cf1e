package admission

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	podsecurityload "k8s.io/pod-security-admission/admission/api/load"
	"sigs.k8s.io/yaml"
)

// configurationFile is upstream's AdmissionConfiguration.
type configurationFile struct {
	metav1.TypeMeta `json:",inline"`
	Plugins         []struct {
		Name string `json:"name"`
		// Path is a file with the configuration; Configuration contains it.
		Path          string                `json:"path,omitempty"`
		Configuration *runtime.RawExtension `json:"configuration,omitempty"`
	} `json:"plugins"`
}

var configurationVersions = []string{"apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"}

// eventRateLimitFile is the configuration of EventRateLimit.
type eventRateLimitFile struct {
	metav1.TypeMeta `json:",inline"`
	Limits          []eventLimit `json:"limits"`
}

// configured are the plugins that have a configuration. Those of other packages' steps are read by these (PluginConfiguration).
var configured = []string{
	"PodSecurity", "EventRateLimit", "ResourceQuota", "MutatingAdmissionPolicy", "MutatingAdmissionWebhook", "ValidatingAdmissionPolicy", "ValidatingAdmissionWebhook",
}

// configure reads the configurations of the steps that have one.
func (c *Config) configure() error {
	given, err := c.pluginConfigurations()
	if err != nil {
		return err
	}
	for name := range given {
		if !slices.Contains(configured, name) {
			return fmt.Errorf("the admission plugin %q has no configuration", name)
		}
	}
	podSecurity, err := podsecurityload.LoadFromData(given["PodSecurity"])
	if err != nil {
		return fmt.Errorf("PodSecurity: %w", err)
	}
	if c.podSecurity, err = newPodSecurity(podSecurity); err != nil {
		return fmt.Errorf("PodSecurity: %w", err)
	}
	if !slices.Contains(c.Enable, "EventRateLimit") {
		return nil
	}
	data, ok := given["EventRateLimit"]
	if !ok {
		return errors.New("EventRateLimit needs a configuration with limits")
	}
	file := eventRateLimitFile{}
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return fmt.Errorf("EventRateLimit: %w", err)
	}
	if file.Kind != "Configuration" || file.APIVersion != "eventratelimit.admission.k8s.io/v1alpha1" {
		return fmt.Errorf("EventRateLimit: %s %s is not a Configuration of eventratelimit.admission.k8s.io/v1alpha1", file.APIVersion, file.Kind)
	}
	if len(file.Limits) == 0 {
		return errors.New("EventRateLimit: limits: Invalid value: must not be empty")
	}
	for i := range file.Limits {
		if err := file.Limits[i].check(); err != nil {
			return err
		}
	}
	c.eventLimits = file.Limits
	return nil
}

// PluginConfiguration returns the configuration of a plugin, empty if there is none.
func (c *Config) PluginConfiguration(name string) ([]byte, error) {
	given, err := c.pluginConfigurations()
	return given[name], err
}

// pluginConfigurations returns the configurations of plugins by their names.
func (c *Config) pluginConfigurations() (map[string][]byte, error) {
	out := map[string][]byte{}
	if len(c.Configuration) == 0 {
		return out, nil
	}
	var file configurationFile
	if err := yaml.UnmarshalStrict(c.Configuration, &file); err != nil {
		return nil, err
	}
	if file.Kind != "AdmissionConfiguration" || !slices.Contains(configurationVersions, file.APIVersion) {
		return nil, fmt.Errorf("%s %s is not an AdmissionConfiguration of %s", file.APIVersion, file.Kind, configurationVersions[0])
	}
	for _, plugin := range file.Plugins {
		switch {
		case out[plugin.Name] != nil:
			return nil, fmt.Errorf("the plugin %q is configured twice", plugin.Name)
		case plugin.Configuration != nil:
			raw, err := json.Marshal(plugin.Configuration)
			if err != nil {
				return nil, err
			}
			out[plugin.Name] = raw
		case plugin.Path != "":
			data, err := c.ReadFile(filepath.Clean(plugin.Path))
			if err != nil {
				return nil, err
			}
			out[plugin.Name] = data
		}
	}
	return out, nil
}
