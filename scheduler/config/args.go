package config

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/scheduler/devices"
	"github.com/kontiki/kontiki/scheduler/framework"
	"github.com/kontiki/kontiki/scheduler/plugins"
)

// args are the parameters of plugins.
type args struct {
	affinity                   *plugins.NodeAffinity
	fit                        schedulerv1.NodeResourcesFitArgs
	strategy                   plugins.Strategy
	balanced                   []plugins.WeightedResource
	bindTimeout                time.Duration
	devicesFilter              time.Duration
	devicesBinding             time.Duration
	storage                    []plugins.ShapePoint
	spread                     []corev1.TopologySpreadConstraint
	systemSpread               bool
	hardWeight                 int64
	ignorePlaced               bool
	minPercentage, minAbsolute int
}

// parser decodes and checks the args of one plugin. into is a pointer to the type of its args.
type parser struct {
	into  func() any
	apply func(a *args, from any, path *field.Path) field.ErrorList
}

var parsers = map[string]parser{
	"NodeAffinity":                    {func() any { return &schedulerv1.NodeAffinityArgs{} }, nodeAffinityArgs},
	"NodeResourcesFit":                {func() any { return &schedulerv1.NodeResourcesFitArgs{} }, fitArgs},
	"NodeResourcesBalancedAllocation": {func() any { return &schedulerv1.NodeResourcesBalancedAllocationArgs{} }, balancedArgs},
	"VolumeBinding":                   {func() any { return &schedulerv1.VolumeBindingArgs{} }, volumeArgs},
	"PodTopologySpread":               {func() any { return &schedulerv1.PodTopologySpreadArgs{} }, spreadArgs},
	"InterPodAffinity":                {func() any { return &schedulerv1.InterPodAffinityArgs{} }, podAffinityArgs},
	devices.Name:                      {func() any { return &schedulerv1.DynamicResourcesArgs{} }, deviceArgs},
	"DefaultPreemption":               {func() any { return &schedulerv1.DefaultPreemptionArgs{} }, preemptionArgs},
}

func convertArgs(configured []schedulerv1.PluginConfig, path *field.Path, errs *field.ErrorList) args {
	a := args{
		strategy: plugins.Strategy{Type: plugins.LeastAllocated, Resources: plugins.DefaultResources}, balanced: plugins.DefaultResources,
		devicesFilter: devices.DefaultFilterTimeout, devicesBinding: devices.DefaultBindingTimeout,
		bindTimeout: plugins.DefaultBindTimeout, storage: plugins.DefaultStorageShape, spread: plugins.SystemConstraints, systemSpread: true,
		hardWeight: 1, minPercentage: 10, minAbsolute: 100,
	}
	a.affinity, _ = plugins.NewNodeAffinity(nil) // it fails only for an affinity
	seen := map[string]bool{}
	for i := range configured {
		at, name := path.Index(i), configured[i].Name
		p, ok := parsers[name]
		switch {
		case seen[name]:
			*errs = append(*errs, field.Duplicate(at.Child("name"), name))
			continue
		case !ok && known(name):
			*errs = append(*errs, field.Invalid(at.Child("name"), name, "this plugin takes no args"))
			continue
		case !ok:
			*errs = append(*errs, field.NotSupported(at.Child("name"), name, pluginNames()))
			continue
		}
		seen[name] = true
		into := p.into()
		if err := yaml.UnmarshalStrict(configured[i].Args.Raw, into); err != nil {
			*errs = append(*errs, field.Invalid(at.Child("args"), string(configured[i].Args.Raw), fmt.Sprintf("decode %sArgs: %v", name, err)))
			continue
		}
		*errs = append(*errs, p.apply(&a, into, at.Child("args"))...)
	}
	return a
}

func nodeAffinityArgs(a *args, from any, path *field.Path) (errs field.ErrorList) {
	added, err := plugins.NewNodeAffinity(from.(*schedulerv1.NodeAffinityArgs).AddedAffinity)
	if err != nil {
		return append(errs, field.Invalid(path.Child("addedAffinity"), "", err.Error()))
	}
	a.affinity = added
	return nil
}

func fitArgs(a *args, from any, path *field.Path) (errs field.ErrorList) {
	a.fit = *from.(*schedulerv1.NodeResourcesFitArgs)
	s := a.fit.ScoringStrategy
	if s == nil {
		return nil
	}
	path = path.Child("scoringStrategy")
	types := []schedulerv1.ScoringStrategyType{schedulerv1.LeastAllocated, schedulerv1.MostAllocated, schedulerv1.RequestedToCapacityRatio}
	if s.Type == "" {
		s.Type = schedulerv1.LeastAllocated
	}
	if !slices.Contains(types, s.Type) {
		return append(errs, field.NotSupported(path.Child("type"), s.Type, types))
	}
	a.strategy.Type = string(s.Type)
	if len(s.Resources) > 0 {
		a.strategy.Resources = resourcesOf(s.Resources, path.Child("resources"), &errs)
	}
	ratio := s.RequestedToCapacityRatio
	switch {
	case s.Type == schedulerv1.RequestedToCapacityRatio && ratio == nil:
		errs = append(errs, field.Required(path.Child("requestedToCapacityRatio"), "shape is required"))
	case s.Type == schedulerv1.RequestedToCapacityRatio:
		a.strategy.Shape = shapeOf(ratio.Shape, path.Child("requestedToCapacityRatio", "shape"), &errs)
	case ratio != nil:
		errs = append(errs, field.Forbidden(path.Child("requestedToCapacityRatio"), "only for type RequestedToCapacityRatio"))
	}
	return errs
}

func resourcesOf(specs []schedulerv1.ResourceSpec, path *field.Path, errs *field.ErrorList) (out []plugins.WeightedResource) {
	for i, r := range specs {
		if r.Weight == 0 {
			r.Weight = 1
		}
		if r.Name == "" {
			*errs = append(*errs, field.Required(path.Index(i).Child("name"), ""))
		}
		if r.Weight < 1 || r.Weight > 100 {
			*errs = append(*errs, field.Invalid(path.Index(i).Child("weight"), r.Weight, fmt.Sprintf("resource weight of %s not in valid range [1-100]", r.Name)))
		}
		out = append(out, plugins.WeightedResource{Name: corev1.ResourceName(r.Name), Weight: r.Weight})
	}
	return out
}

// largestCustomScore is what a shape's scores are at most.
const largestCustomScore = 10

func shapeOf(points []schedulerv1.UtilizationShapePoint, path *field.Path, errs *field.ErrorList) (out []plugins.ShapePoint) {
	if len(points) == 0 {
		*errs = append(*errs, field.Required(path, "at least one point must be specified"))
	}
	for i, p := range points {
		at := path.Index(i)
		if p.Utilization < 0 || p.Utilization > 100 {
			*errs = append(*errs, field.Invalid(at.Child("utilization"), p.Utilization, "not in valid range [0-100]"))
		}
		if p.Score < 0 || p.Score > largestCustomScore {
			*errs = append(*errs, field.Invalid(at.Child("score"), p.Score, fmt.Sprintf("not in valid range [0-%d]", largestCustomScore)))
		}
		if i > 0 && points[i-1].Utilization >= p.Utilization {
			*errs = append(*errs, field.Invalid(at.Child("utilization"), p.Utilization, "utilization values must be sorted in increasing order"))
		}
		out = append(out, plugins.ShapePoint{Utilization: int64(p.Utilization), Score: int64(p.Score) * framework.MaxScore / largestCustomScore})
	}
	return out
}

func balancedArgs(a *args, from any, path *field.Path) (errs field.ErrorList) {
	specs := from.(*schedulerv1.NodeResourcesBalancedAllocationArgs).Resources
	if len(specs) == 0 {
		return nil
	}
	a.balanced = resourcesOf(specs, path.Child("resources"), &errs)
	for i, r := range a.balanced {
		if r.Weight != 1 {
			errs = append(errs, field.Invalid(path.Child("resources").Index(i).Child("weight"), r.Weight, "must be 1"))
		}
	}
	return errs
}

func volumeArgs(a *args, from any, path *field.Path) (errs field.ErrorList) {
	v := from.(*schedulerv1.VolumeBindingArgs)
	if s := v.BindTimeoutSeconds; s != nil {
		a.bindTimeout = time.Duration(*s) * time.Second
		if *s < 0 {
			errs = append(errs, field.Invalid(path.Child("bindTimeoutSeconds"), *s, "invalid BindTimeoutSeconds, should not be a negative value"))
		}
	}
	if len(v.Shape) > 0 {
		a.storage = shapeOf(v.Shape, path.Child("shape"), &errs)
	}
	return errs
}

func deviceArgs(a *args, from any, path *field.Path) (errs field.ErrorList) {
	d := from.(*schedulerv1.DynamicResourcesArgs)
	if t := d.FilterTimeout; t != nil {
		a.devicesFilter = t.Duration
		if t.Duration < 0 {
			errs = append(errs, field.Invalid(path.Child("filterTimeout"), t, "must be zero or positive"))
		}
	}
	if t := d.BindingTimeout; t != nil {
		a.devicesBinding = t.Duration
		if t.Duration < time.Second {
			errs = append(errs, field.Invalid(path.Child("bindingTimeout"), t, "must be at least 1 second"))
		}
	}
	return errs
}

func spreadArgs(a *args, from any, path *field.Path) (errs field.ErrorList) {
	s := from.(*schedulerv1.PodTopologySpreadArgs)
	at := path.Child("defaultConstraints")
	switch s.DefaultingType {
	case schedulerv1.SystemDefaulting, "":
		if s.DefaultingType == "" && len(s.DefaultConstraints) > 0 {
			break
		}
		if len(s.DefaultConstraints) > 0 {
			errs = append(errs, field.Invalid(path.Child("defaultingType"), s.DefaultingType, "when .defaultConstraints are specified, must be List"))
		}
		return errs
	case schedulerv1.ListDefaulting:
	default:
		return append(errs, field.NotSupported(path.Child("defaultingType"), s.DefaultingType, []schedulerv1.PodTopologySpreadConstraintsDefaulting{schedulerv1.SystemDefaulting, schedulerv1.ListDefaulting}))
	}
	a.spread, a.systemSpread = s.DefaultConstraints, false
	for i, c := range s.DefaultConstraints {
		at := at.Index(i)
		if c.MaxSkew <= 0 {
			errs = append(errs, field.Invalid(at.Child("maxSkew"), c.MaxSkew, "not in valid range (0, inf)"))
		}
		if c.TopologyKey == "" {
			errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
		}
		if c.WhenUnsatisfiable != corev1.DoNotSchedule && c.WhenUnsatisfiable != corev1.ScheduleAnyway {
			errs = append(errs, field.NotSupported(at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, []corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}))
		}
		if c.LabelSelector != nil {
			errs = append(errs, field.Forbidden(at.Child("labelSelector"), "constraint must not define a selector, as they deduced for each pod"))
		}
		if len(c.MatchLabelKeys) > 0 {
			errs = append(errs, field.Forbidden(at.Child("matchLabelKeys"), "constraint must not define match label keys, as the selector is deduced for each pod"))
		}
	}
	return errs
}

func podAffinityArgs(a *args, from any, path *field.Path) (errs field.ErrorList) {
	p := from.(*schedulerv1.InterPodAffinityArgs)
	if w := p.HardPodAffinityWeight; w != nil {
		a.hardWeight = int64(*w)
		if *w < 0 || *w > 100 {
			errs = append(errs, field.Invalid(path.Child("hardPodAffinityWeight"), *w, "not in valid range [0-100]"))
		}
	}
	a.ignorePlaced = p.IgnorePreferredTermsOfExistingPods
	return errs
}

func preemptionArgs(a *args, from any, path *field.Path) (errs field.ErrorList) {
	p := from.(*schedulerv1.DefaultPreemptionArgs)
	if n := p.MinCandidateNodesPercentage; n != nil {
		a.minPercentage = int(*n)
		if *n < 0 || *n > 100 {
			errs = append(errs, field.Invalid(path.Child("minCandidateNodesPercentage"), *n, "not in valid range [0, 100]"))
		}
	}
	if n := p.MinCandidateNodesAbsolute; n != nil {
		a.minAbsolute = int(*n)
		if *n < 0 {
			errs = append(errs, field.Invalid(path.Child("minCandidateNodesAbsolute"), *n, "not in valid range [0, inf)"))
		}
	}
	if a.minPercentage == 0 && a.minAbsolute == 0 {
		errs = append(errs, field.Invalid(path.Child("minCandidateNodesPercentage"), 0, "minCandidateNodesPercentage and minCandidateNodesAbsolute cannot be both zero"))
	}
	return errs
}
