package config

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/scheduler/framework"
)

const header = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse([]byte(header + text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func filterNames(p *framework.Profile) (names []string) {
	for _, f := range p.Filters {
		names = append(names, f.Name())
	}
	return names
}

func TestDefaultsAreUpstreams(t *testing.T) {
	c := Default()
	p := c.Profiles(Handle{})[corev1.DefaultSchedulerName]
	want := []string{"NodeName", "NodeUnschedulable", "TaintToleration", "NodeAffinity", "NodePorts", "NodeResourcesFit", "VolumeRestrictions", "NodeVolumeLimits",
		"VolumeBinding", "VolumeZone", "PodTopologySpread", "InterPodAffinity", "DynamicResources", "NodeDeclaredFeatures"}
	if got := filterNames(p); !slices.Equal(got, want) {
		t.Errorf("filters: %q", got)
	}
	weights := map[string]int64{}
	for _, s := range p.Scores {
		weights[s.Name()] = s.Weight
	}
	for name, want := range map[string]int64{"TaintToleration": 3, "NodeAffinity": 2, "NodeResourcesFit": 1, "VolumeBinding": 1, "PodTopologySpread": 2, "InterPodAffinity": 2,
		"DynamicResources": 2, "NodeResourcesBalancedAllocation": 1, "ImageLocality": 1} {
		if weights[name] != want {
			t.Errorf("the weight of %s is %d, want %d", name, weights[name], want)
		}
	}
	if len(p.PostFilters) != 2 || p.PostFilters[0].Name() != "DynamicResources" || len(p.PreEnqueue) != 2 || c.FirstBackoff != time.Second || c.LongestBackoff != 10*time.Second {
		t.Errorf("%d post filters, %d gates, back-off from %v to %v", len(p.PostFilters), len(p.PreEnqueue), c.FirstBackoff, c.LongestBackoff)
	}
}

func TestPluginsAreMerged(t *testing.T) {
	c := parse(t, `
percentageOfNodesToScore: 50
podInitialBackoffSeconds: 2
podMaxBackoffSeconds: 20
profiles:
- schedulerName: default-scheduler
  plugins:
    multiPoint:
      enabled: [{name: NodeAffinity, weight: 7}]
      disabled: [{name: ImageLocality}, {name: DefaultPreemption}, {name: DynamicResources}]
    score:
      enabled: [{name: NodeResourcesFit, weight: 5}]
      disabled: [{name: TaintToleration}]
    filter:
      disabled: [{name: NodePorts}]
- schedulerName: bare
  percentageOfNodesToScore: 10
  plugins:
    multiPoint: {disabled: [{name: "*"}]}
    filter: {enabled: [{name: NodeResourcesFit}]}
`)
	if got := c.Names(); !slices.Equal(got, []string{"default-scheduler", "bare"}) {
		t.Errorf("names: %q", got)
	}
	profiles := c.Profiles(Handle{})
	p := profiles["default-scheduler"]
	weights := map[string]int64{}
	for _, s := range p.Scores {
		weights[s.Name()] = s.Weight
	}
	if weights["NodeAffinity"] != 7 || weights["NodeResourcesFit"] != 5 || weights["TaintToleration"] != 0 || weights["ImageLocality"] != 0 || weights["InterPodAffinity"] != 2 {
		t.Errorf("weights: %v", weights)
	}
	if names := filterNames(p); slices.Contains(names, "NodePorts") || !slices.Contains(names, "TaintToleration") {
		t.Errorf("filters: %q", names)
	}
	if len(p.PostFilters) != 0 || p.Percentage != 50 || c.FirstBackoff != 2*time.Second || c.LongestBackoff != 20*time.Second {
		t.Errorf("%+v, %+v", p, c)
	}
	bare := profiles["bare"]
	if names := filterNames(bare); !slices.Equal(names, []string{"NodeResourcesFit"}) || len(bare.Scores) != 0 || bare.Percentage != 10 {
		t.Errorf("filters: %q, %+v", names, bare)
	}
}

// TestArgsReachThePlugins: with the most requested nodes preferred, a pod is placed on the fuller node.
func TestArgsReachThePlugins(t *testing.T) {
	place := func(c *Config) string {
		cluster := framework.NewCluster(nil)
		for _, name := range []string{"empty", "fuller"} {
			list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("10")}
			cluster.SetNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Allocatable: list}})
		}
		pod := func(name string) *framework.PodInfo {
			requests := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")}
			return framework.NewPodInfo(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
				Resources: corev1.ResourceRequirements{Requests: requests}}}}})
		}
		cluster.Place(pod("there"), "fuller")
		e := framework.NewEvaluation(cluster, c.Profiles(Handle{})[corev1.DefaultSchedulerName], pod("p"))
		fit, _ := e.Fit(pod("p"))
		return e.Best(fit).Name
	}
	const withoutSpread = `
profiles:
- pluginConfig:
  - name: PodTopologySpread
    args: {kind: PodTopologySpreadArgs, defaultingType: List}
`
	if got := place(parse(t, withoutSpread)); got != "empty" {
		t.Errorf("by default, the pod is placed on the node that is %s", got)
	}
	for name, strategy := range map[string]string{
		"MostAllocated": "type: MostAllocated",
		"RequestedToCapacityRatio": `type: RequestedToCapacityRatio
        requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]}`,
	} {
		c := parse(t, withoutSpread+`
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      scoringStrategy:
        `+strategy+`
        resources: [{name: cpu, weight: 1}, {name: memory}]
`)
		if got := place(c); got != "fuller" {
			t.Errorf("with %s, the pod is placed on the node that is %s", name, got)
		}
	}
}

func TestErrorsNameTheField(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"an unknown field":     {"parallel: 3", `unknown field "parallel"`},
		"parallelism":          {"parallelism: 3", "parallelism: Forbidden"},
		"leader election":      {"leaderElection: {leaderElect: true}", "leaderElection: Forbidden"},
		"extenders":            {"extenders: [{urlPrefix: x}]", "extenders: Forbidden"},
		"back-off":             {"podInitialBackoffSeconds: 20", "podMaxBackoffSeconds: Invalid value: 10"},
		"a percentage":         {"percentageOfNodesToScore: 101", "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]"},
		"two profiles":         {"profiles: [{schedulerName: a}, {schedulerName: a}]", `profiles[1].schedulerName: Duplicate value: "a"`},
		"no name":              {"profiles: [{schedulerName: a}, {}]", "profiles[1].schedulerName: Required value"},
		"an unknown plugin":    {"profiles: [{plugins: {filter: {enabled: [{name: X}]}}}]", `profiles[0].plugins.filter.enabled[0].name: Unsupported value: "X"`},
		"a point it has not":   {"profiles: [{plugins: {score: {enabled: [{name: NodeName}]}}}]", `profiles[0].plugins.score.enabled[0].name: Invalid value: "NodeName": plugin "NodeName" does not extend score`},
		"a point we have not":  {"profiles: [{plugins: {permit: {enabled: [{name: NodeName}]}}}]", "profiles[0].plugins.permit: Forbidden"},
		"another order":        {"profiles: [{plugins: {queueSort: {enabled: [{name: NodeName}]}}}]", "profiles[0].plugins.queueSort.enabled[0].name: Unsupported value"},
		"a weight":             {"profiles: [{plugins: {score: {enabled: [{name: NodeAffinity, weight: -1}]}}}]", "profiles[0].plugins.score.enabled[0].weight: Invalid value: -1"},
		"args of no plugin":    {"profiles: [{pluginConfig: [{name: X}]}]", `profiles[0].pluginConfig[0].name: Unsupported value: "X"`},
		"args that are unread": {"profiles: [{pluginConfig: [{name: NodeName}]}]", "profiles[0].pluginConfig[0].name: Invalid value"},
		"an unknown arg":       {"profiles: [{pluginConfig: [{name: InterPodAffinity, args: {x: 1}}]}]", "profiles[0].pluginConfig[0].args: Invalid value"},
		"a pod affinity":       {"profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]}]", "args.hardPodAffinityWeight: Invalid value: 101"},
		"a strategy":           {"profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: X}}}]}]", "args.scoringStrategy.type: Unsupported value"},
		"no shape":             {"profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio}}}]}]", "args.scoringStrategy.requestedToCapacityRatio: Required value"},
		"a shape": {"profiles: [{pluginConfig: [{name: VolumeBinding, args: {shape: [{utilization: 50, score: 1}, {utilization: 50, score: 11}]}}]}]",
			"[profiles[0].pluginConfig[0].args.shape[1].score: Invalid value: 11: not in valid range [0-10], profiles[0].pluginConfig[0].args.shape[1].utilization"},
		"a selector": {"profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: k, whenUnsatisfiable: DoNotSchedule, labelSelector: {}}]}}]}]", "args.defaultConstraints[0].labelSelector: Forbidden"},
		"device timeouts": {"profiles: [{pluginConfig: [{name: DynamicResources, args: {filterTimeout: -1s, bindingTimeout: 10ms}}]}]",
			"must be at least 1 second"},
		"a timeout":    {"profiles: [{pluginConfig: [{name: VolumeBinding, args: {bindTimeoutSeconds: -1}}]}]", "args.bindTimeoutSeconds: Invalid value: -1"},
		"candidates":   {"profiles: [{pluginConfig: [{name: DefaultPreemption, args: {minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0}}]}]", "args.minCandidateNodesPercentage: Invalid value: 0"},
		"an affinity":  {"profiles: [{pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: k, operator: X}]}]}}}}]}]", "args.addedAffinity: Invalid value"},
		"args twice":   {"profiles: [{pluginConfig: [{name: NodeAffinity, args: {}}, {name: NodeAffinity, args: {}}]}]", `profiles[0].pluginConfig[1].name: Duplicate value: "NodeAffinity"`},
		"plugin twice": {"profiles: [{plugins: {filter: {enabled: [{name: NodePorts}, {name: NodePorts}]}}}]", `profiles[0].plugins.filter.enabled[1].name: Duplicate value: "NodePorts"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(header + test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v\nwant %s", err, test.want)
			}
		})
	}
	if _, err := Parse([]byte("apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration")); err == nil || !strings.Contains(err.Error(), "v1beta3") {
		t.Errorf("another version: %v", err)
	}
}
