package agent

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// TestSettingsOfAnAgent: flags whose values mean nothing are refused, before the agent joins a cluster.
func TestSettingsOfAnAgent(t *testing.T) {
	for flags, refused := range map[string]string{
		"":                                                  "",
		"--max-pods=0":                                      "",
		"--max-pods=-1":                                     "--max-pods:",
		"--max-parallel-image-pulls=0":                      "--max-parallel-image-pulls:",
		"--image-gc-high-threshold=101":                     "--image-gc-high-threshold:",
		"--image-gc-high-threshold=100":                     "",
		"--image-gc-high-threshold=80":                      "--image-gc-low-threshold:", // 80 by default
		"--image-gc-low-threshold=-1":                       "--image-gc-low-threshold:",
		"--minimum-image-ttl-duration=-1s":                  "--minimum-image-ttl-duration:",
		"--image-maximum-gc-age=1m":                         "--image-maximum-gc-age:", // 2m is the default minimum
		"--image-maximum-gc-age=1h":                         "",
		"--cpu-manager-policy=dynamic":                      "unknown CPU manager policy",
		"--memory-manager-policy=x":                         "unknown memory manager policy",
		"--topology-manager-policy=x":                       "unknown topology manager policy",
		"--topology-manager-scope=x":                        "unknown topology manager scope",
		"--reserved-cpus=99999":                             "reserved CPUs 99999",
		"--cpu-manager-policy-options=full-pcpus-only=true": "CPU manager policy options",
		"--cpu-manager-policy=static --cpu-manager-policy-options=full-pcpus-only=true": "",
	} {
		var o Options
		f := pflag.NewFlagSet("", pflag.ContinueOnError)
		o.Flags(f)
		if err := f.Parse(strings.Fields(flags)); err != nil {
			t.Fatal(err)
		}
		if err := o.validate(); refused == "" && err != nil || refused != "" && (err == nil || !strings.HasPrefix(err.Error(), refused)) {
			t.Errorf("%q: %v, want an error about %q", flags, err, refused)
		}
	}
}
