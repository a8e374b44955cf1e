// Package config reads the scheduler's configuration: a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1), as upstream's
// kube-scheduler takes it. A field that Kontiki cannot honour is an error that names it, never ignored.
package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	componentv1alpha1 "k8s.io/component-base/config/v1alpha1"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/scheduler/framework"
	"github.com/kontiki/kontiki/scheduler/queue"
)

// Config is a validated configuration.
type Config struct {
	FirstBackoff, LongestBackoff time.Duration

	profiles []profile
}

type profile struct {
	name       string
	percentage int32
	points     points
	args       args
}

// Default returns the configuration without a file.
func Default() *Config {
	c, errs := convert(&schedulerv1.KubeSchedulerConfiguration{})
	if len(errs) > 0 {
		panic(errs.ToAggregate()) // nothing is configured that could be wrong
	}
	return c
}

// Parse reads a configuration in YAML or JSON.
func Parse(data []byte) (*Config, error) {
	var file schedulerv1.KubeSchedulerConfiguration
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return nil, fmt.Errorf("decode KubeSchedulerConfiguration: %w", err)
	}
	if file.APIVersion != schedulerv1.SchemeGroupVersion.String() || file.Kind != "KubeSchedulerConfiguration" {
		return nil, fmt.Errorf("apiVersion %q, kind %q: want %q, %q", file.APIVersion, file.Kind, schedulerv1.SchemeGroupVersion, "KubeSchedulerConfiguration")
	}
	c, errs := convert(&file)
	if len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	return c, nil
}

// Names returns the scheduler names of the profiles.
func (c *Config) Names() (names []string) {
	for _, p := range c.profiles {
		names = append(names, p.name)
	}
	return names
}

// Profiles makes the profiles' plugins, by scheduler name.
func (c *Config) Profiles(h Handle) map[string]*framework.Profile {
	made := map[string]*framework.Profile{}
	for _, p := range c.profiles {
		made[p.name] = p.make(h)
	}
	return made
}

func convert(file *schedulerv1.KubeSchedulerConfiguration) (*Config, field.ErrorList) {
	errs := unsupported(file)
	c := &Config{FirstBackoff: queue.FirstBackoff, LongestBackoff: queue.LongestBackoff}
	if s := file.PodInitialBackoffSeconds; s != nil {
		c.FirstBackoff = time.Duration(*s) * time.Second
		if *s <= 0 {
			errs = append(errs, field.Invalid(field.NewPath("podInitialBackoffSeconds"), *s, "must be greater than 0"))
		}
	}
	if s := file.PodMaxBackoffSeconds; s != nil {
		c.LongestBackoff = time.Duration(*s) * time.Second
	}
	if c.LongestBackoff < c.FirstBackoff {
		errs = append(errs, field.Invalid(field.NewPath("podMaxBackoffSeconds"), int64(c.LongestBackoff/time.Second), "must be greater than or equal to PodInitialBackoffSeconds"))
	}
	everyPercentage := percentageOf(file.PercentageOfNodesToScore, field.NewPath("percentageOfNodesToScore"), &errs)
	profiles := file.Profiles
	if len(profiles) == 0 {
		profiles = []schedulerv1.KubeSchedulerProfile{{}}
	}
	seen := map[string]bool{}
	for i := range profiles {
		path := field.NewPath("profiles").Index(i)
		p := convertProfile(&profiles[i], path, &errs)
		if profiles[i].PercentageOfNodesToScore == nil {
			p.percentage = everyPercentage
		}
		switch {
		case profiles[i].SchedulerName == nil && len(profiles) > 1, p.name == "":
			errs = append(errs, field.Required(path.Child("schedulerName"), ""))
		case seen[p.name]:
			errs = append(errs, field.Duplicate(path.Child("schedulerName"), p.name))
		}
		seen[p.name] = true
		c.profiles = append(c.profiles, p)
	}
	return c, errs
}

// unsupported returns an error for each field that is set and cannot be honoured.
func unsupported(file *schedulerv1.KubeSchedulerConfiguration) (errs field.ErrorList) {
	refuse := func(set bool, name, why string) {
		if set {
			errs = append(errs, field.Forbidden(field.NewPath(name), why))
		}
	}
	refuse(file.Parallelism != nil, "parallelism", "decisions are made by one goroutine, on kept results")
	refuse(file.LeaderElection != (componentv1alpha1.LeaderElectionConfiguration{}), "leaderElection", "the scheduler runs on the masters' leader")
	refuse(file.ClientConnection != (componentv1alpha1.ClientConnectionConfiguration{}), "clientConnection", "the scheduler runs in the masters' process")
	refuse(file.EnableProfiling != nil || file.EnableContentionProfiling != nil, "enableProfiling", "profiles are served by the masters' process")
	refuse(len(file.Extenders) > 0, "extenders", "Kontiki does not call scheduler extenders; run upstream's kube-scheduler with them and --duties '*,-kube-scheduler'")
	refuse(file.DelayCacheUntilActive, "delayCacheUntilActive", "the scheduler runs on the masters' leader only")
	return errs
}

func percentageOf(value *int32, path *field.Path, errs *field.ErrorList) int32 {
	if value == nil {
		return 0
	}
	if *value < 0 || *value > 100 {
		*errs = append(*errs, field.Invalid(path, *value, "not in valid range [0-100]"))
	}
	return *value
}

func convertProfile(file *schedulerv1.KubeSchedulerProfile, path *field.Path, errs *field.ErrorList) profile {
	p := profile{name: corev1.DefaultSchedulerName}
	if file.SchedulerName != nil {
		p.name = *file.SchedulerName
	}
	p.percentage = percentageOf(file.PercentageOfNodesToScore, path.Child("percentageOfNodesToScore"), errs)
	plugins := file.Plugins
	if plugins == nil {
		plugins = &schedulerv1.Plugins{}
	}
	p.points = convertPlugins(plugins, path.Child("plugins"), errs)
	p.args = convertArgs(file.PluginConfig, path.Child("pluginConfig"), errs)
	return p
}

// points are the plugins of each extension point, in order.
type points struct {
	preEnqueue, filter, postFilter []string
	score                          []weighted
}

type weighted struct {
	name   string
	weight int64
}

// convertPlugins merges the configured plugins with the default ones.
func convertPlugins(p *schedulerv1.Plugins, path *field.Path, errs *field.ErrorList) points {
	for name, set := range map[string]*schedulerv1.PluginSet{
		"preFilter": &p.PreFilter, "preScore": &p.PreScore, "reserve": &p.Reserve, "permit": &p.Permit, "preBind": &p.PreBind, "postBind": &p.PostBind,
		"placementGenerate": &p.PlacementGenerate, "placementScore": &p.PlacementScore, "podGroupPostFilter": &p.PodGroupPostFilter,
	} {
		if len(set.Enabled)+len(set.Disabled) > 0 {
			*errs = append(*errs, field.Forbidden(path.Child(name), "what plugins do before and after filtering and scoring goes with it; use filter, score, postFilter, preEnqueue or multiPoint"))
		}
	}
	only := func(name string, set *schedulerv1.PluginSet, one string) {
		for i, plugin := range set.Enabled {
			if plugin.Name != one {
				*errs = append(*errs, field.NotSupported(path.Child(name, "enabled").Index(i).Child("name"), plugin.Name, []string{one}))
			}
		}
		if len(set.Disabled) > 0 && len(set.Enabled) == 0 {
			*errs = append(*errs, field.Forbidden(path.Child(name, "disabled"), one+" cannot be switched off"))
		}
	}
	only("queueSort", &p.QueueSort, "PrioritySort")
	only("bind", &p.Bind, "DefaultBinder")

	all := multiPoint(&p.MultiPoint, path.Child("multiPoint"), errs)
	var out points
	out.preEnqueue = namesOf(point(all, &p.PreEnqueue, "preEnqueue", path, errs))
	out.filter = namesOf(point(all, &p.Filter, "filter", path, errs))
	out.postFilter = namesOf(point(all, &p.PostFilter, "postFilter", path, errs))
	out.score = point(all, &p.Score, "score", path, errs)
	return out
}

func namesOf(list []weighted) (names []string) {
	for _, w := range list {
		names = append(names, w.name)
	}
	return names
}

// multiPoint returns the plugins that are enabled at all points that they extend.
func multiPoint(set *schedulerv1.PluginSet, path *field.Path, errs *field.ErrorList) []weighted {
	disabled := checkedNames(set, path, "", errs)
	var out []weighted
	replaced := map[string]bool{}
	for _, d := range defaults {
		w := weighted{d.name, d.weight}
		if i := slices.IndexFunc(set.Enabled, func(e schedulerv1.Plugin) bool { return e.Name == d.name }); i >= 0 && !disabled["*"] && !disabled[d.name] {
			w.weight = weightOf(set.Enabled[i])
			replaced[d.name] = true
		}
		if !disabled["*"] && !disabled[d.name] {
			out = append(out, w)
		}
	}
	for _, e := range set.Enabled {
		if !replaced[e.Name] {
			out = append(out, weighted{e.Name, weightOf(e)})
		}
	}
	return out
}

func weightOf(p schedulerv1.Plugin) int64 {
	if p.Weight == nil || *p.Weight == 0 {
		return 1
	}
	return int64(*p.Weight)
}

// point returns the plugins of one extension point: those that are named for it, and then those of all points that extend it.
func point(all []weighted, set *schedulerv1.PluginSet, name string, path *field.Path, errs *field.ErrorList) []weighted {
	disabled := checkedNames(set, path.Child(name), name, errs)
	var out []weighted
	for _, e := range set.Enabled {
		out = append(out, weighted{e.Name, weightOf(e)})
	}
	for _, w := range all {
		named := slices.ContainsFunc(set.Enabled, func(e schedulerv1.Plugin) bool { return e.Name == w.name })
		if !named && !disabled["*"] && !disabled[w.name] && extends(w.name, name) {
			out = append(out, w)
		}
	}
	return out
}

// checkedNames checks the names in a set, and returns the disabled ones.
func checkedNames(set *schedulerv1.PluginSet, path *field.Path, point string, errs *field.ErrorList) map[string]bool {
	seen := map[string]bool{}
	for i, e := range set.Enabled {
		at := path.Child("enabled").Index(i)
		switch {
		case !known(e.Name):
			*errs = append(*errs, field.NotSupported(at.Child("name"), e.Name, pluginNames()))
		case point != "" && !extends(e.Name, point):
			*errs = append(*errs, field.Invalid(at.Child("name"), e.Name, fmt.Sprintf("plugin %q does not extend %s", e.Name, point)))
		case seen[e.Name]:
			*errs = append(*errs, field.Duplicate(at.Child("name"), e.Name))
		}
		seen[e.Name] = true
		if e.Weight != nil && (*e.Weight < 0 || int64(*e.Weight) > maxWeight) {
			*errs = append(*errs, field.Invalid(at.Child("weight"), *e.Weight, fmt.Sprintf("must be from 0 to %d", maxWeight)))
		}
	}
	disabled := map[string]bool{}
	for i, d := range set.Disabled {
		if d.Name != "*" && !known(d.Name) {
			*errs = append(*errs, field.NotSupported(path.Child("disabled").Index(i).Child("name"), d.Name, pluginNames()))
		}
		disabled[d.Name] = true
	}
	return disabled
}

// maxWeight keeps the sum of weighted scores far below the largest number.
const maxWeight = 1 << 24

func pluginNames() (names []string) {
	for _, d := range defaults {
		names = append(names, d.name)
	}
	return names
}

func known(name string) bool {
	return slices.ContainsFunc(defaults, func(d builtin) bool { return d.name == name })
}

func extends(name, point string) bool {
	return slices.ContainsFunc(defaults, func(d builtin) bool { return d.name == name && strings.Contains(d.points, point+" ") })
}
