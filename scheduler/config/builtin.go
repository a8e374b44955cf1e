package config

import (
	"slices"
	"strings"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/scheduler/devices"
	"github.com/kontiki/kontiki/scheduler/framework"
	"github.com/kontiki/kontiki/scheduler/plugins"
	"github.com/kontiki/kontiki/scheduler/preemption"
)

// Handle is what plugins use of the scheduler.
type Handle struct {
	View    func() client.View
	Volumes *plugins.Volumes
	Devices *devices.State
}

// builtin is a plugin.
type builtin struct {
	name string
	// points are the extension points that it extends, each with a space after it.
	points string
	weight int64
	make   func(h Handle, a *args) framework.Plugin
}

// defaults are the plugins in upstream's order, with its weights: all of them are enabled by default.
var defaults = []builtin{
	{"SchedulingGates", "preEnqueue ", 0, func(Handle, *args) framework.Plugin { return plugins.SchedulingGates{} }},
	{"PrioritySort", "queueSort ", 0, nil},
	{"NodeName", "filter ", 0, func(Handle, *args) framework.Plugin { return plugins.NodeName{} }},
	{"NodeUnschedulable", "filter ", 0, func(Handle, *args) framework.Plugin { return plugins.NodeUnschedulable{} }},
	{"TaintToleration", "filter score ", 3, func(Handle, *args) framework.Plugin { return plugins.TaintToleration{} }},
	{"NodeAffinity", "filter score ", 2, func(_ Handle, a *args) framework.Plugin { return a.affinity }},
	{"NodePorts", "filter ", 0, func(Handle, *args) framework.Plugin { return plugins.NodePorts{} }},
	{"NodeResourcesFit", "filter score ", 1, func(h Handle, a *args) framework.Plugin {
		fit := plugins.NewNodeResourcesFit(a.strategy, a.fit.IgnoredResources, a.fit.IgnoredResourceGroups)
		fit.Devices = h.Devices.Provides
		return fit
	}},
	{"VolumeRestrictions", "filter ", 0, func(h Handle, _ *args) framework.Plugin { return &plugins.VolumeRestrictions{Volumes: h.Volumes} }},
	{"NodeVolumeLimits", "filter ", 0, func(h Handle, _ *args) framework.Plugin { return &plugins.NodeVolumeLimits{Volumes: h.Volumes} }},
	{"VolumeBinding", "filter score ", 1, func(h Handle, a *args) framework.Plugin {
		return &plugins.VolumeBinding{Volumes: h.Volumes, Timeout: a.bindTimeout, Shape: a.storage}
	}},
	{"VolumeZone", "filter ", 0, func(h Handle, _ *args) framework.Plugin { return &plugins.VolumeZone{Volumes: h.Volumes} }},
	{"PodTopologySpread", "filter score ", 2, func(h Handle, a *args) framework.Plugin {
		return &plugins.PodTopologySpread{View: h.View, Defaults: a.spread, SystemDefaults: a.systemSpread}
	}},
	{"InterPodAffinity", "filter score ", 2, func(_ Handle, a *args) framework.Plugin {
		return &plugins.InterPodAffinity{HardWeight: a.hardWeight, IgnorePlaced: a.ignorePlaced}
	}},
	{devices.Name, "preEnqueue filter postFilter score ", 2, func(h Handle, a *args) framework.Plugin {
		return &devices.DynamicResources{State: h.Devices, FilterTimeout: a.devicesFilter, BindingTimeout: a.devicesBinding}
	}},
	{"DefaultPreemption", "postFilter ", 0, func(h Handle, a *args) framework.Plugin {
		d := preemption.NewDefault(h.View)
		d.MinPercentage, d.MinNodes = a.minPercentage, a.minAbsolute
		return d
	}},
	{"NodeResourcesBalancedAllocation", "score ", 1, func(_ Handle, a *args) framework.Plugin {
		return plugins.NodeResourcesBalancedAllocation{Resources: a.balanced}
	}},
	{"ImageLocality", "score ", 1, func(Handle, *args) framework.Plugin { return plugins.ImageLocality{} }},
	{"DefaultBinder", "bind ", 0, nil},
	{"NodeDeclaredFeatures", "filter ", 0, func(Handle, *args) framework.Plugin { return plugins.NodeDeclaredFeatures{} }},
}

// make makes the profile's plugins. A plugin is one object at all its extension points.
func (p *profile) make(h Handle) *framework.Profile {
	made := map[string]framework.Plugin{}
	plugin := func(name string) framework.Plugin {
		if made[name] == nil {
			for _, d := range defaults {
				if d.name == name {
					made[name] = d.make(h, &p.args)
				}
			}
		}
		return made[name]
	}
	out := &framework.Profile{Name: p.name, Percentage: p.percentage, Hints: map[string][]framework.Hint{}}
	for _, name := range p.points.preEnqueue {
		out.PreEnqueue = append(out.PreEnqueue, plugin(name).(framework.PreEnqueuePlugin))
	}
	for _, name := range p.points.filter {
		out.Filters = append(out.Filters, plugin(name).(framework.FilterPlugin))
	}
	for _, name := range p.points.postFilter {
		out.PostFilters = append(out.PostFilters, plugin(name).(framework.PostFilterPlugin))
	}
	for _, w := range p.points.score {
		out.Scores = append(out.Scores, framework.WeightedScore{ScorePlugin: plugin(w.name).(framework.ScorePlugin), Weight: w.weight})
	}
	for name, plugin := range made {
		if h, ok := plugin.(framework.HintingPlugin); ok {
			out.Hints[name] = h.Events()
		}
	}
	return out
}

// Detached returns the profiles by scheduler name, without what volumes and devices need and without preemption.
func (c *Config) Detached(view func() client.View) map[string]*framework.Profile {
	made := c.Profiles(Handle{View: view})
	for _, p := range made {
		p.Filters = slices.DeleteFunc(p.Filters, func(f framework.FilterPlugin) bool { return ofStorage(f.Name()) })
		p.Scores = slices.DeleteFunc(p.Scores, func(s framework.WeightedScore) bool { return ofStorage(s.Name()) })
		p.PreEnqueue, p.PostFilters = nil, nil
	}
	return made
}

func ofStorage(plugin string) bool {
	return strings.Contains(plugin, "Volume") || plugin == devices.Name
}

// Offline returns those filters of a scheduler's profile that need no API: all but those of volumes and devices. ok is false if no profile has
// the scheduler's name.
func (c *Config) Offline(scheduler string) (_ *framework.Profile, ok bool) {
	i := slices.IndexFunc(c.profiles, func(p profile) bool { return p.name == scheduler })
	if i < 0 {
		return nil, false
	}
	p := c.profiles[i].make(Handle{})
	p.Filters = slices.DeleteFunc(p.Filters, func(f framework.FilterPlugin) bool { return ofStorage(f.Name()) })
	for _, f := range p.Filters {
		if spread, ok := f.(*plugins.PodTopologySpread); ok {
			spread.Defaults = nil // they only score
		}
	}
	p.Scores, p.PostFilters = nil, nil
	return p, true
}
