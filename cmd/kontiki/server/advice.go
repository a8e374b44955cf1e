package server

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	apiadvice "github.com/kontiki/kontiki/api/advice"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	advicecontroller "github.com/kontiki/kontiki/controller/advice"
	"github.com/kontiki/kontiki/internal/advice"
)

// adviceOptions say how advice about requests is made, and when it may be applied.
type adviceOptions struct{ period, after time.Duration }

func (o *adviceOptions) flags(f *pflag.FlagSet) {
	f.DurationVar(&o.period, "advice-period", time.Minute, "how often it is sampled what pods use, for advice about their requests; the same on all masters")
	f.DurationVar(&o.after, "advice-apply-after", time.Hour, "how long it must have been sampled what a workload uses before advice is applied to pods that ask for it by an annotation; the same on all masters")
}

func (o *adviceOptions) check() error {
	switch {
	case o.period < time.Second:
		return fmt.Errorf("--advice-period: want at least 1s, not %s", o.period)
	case o.after < 0:
		return fmt.Errorf("--advice-apply-after: %s is negative", o.after)
	}
	return nil
}

func (o *adviceOptions) settings(to map[string]string) {
	to["advice-period"], to["advice-apply-after"] = o.period.String(), o.after.String()
}

// applyAdvice returns the controller that changes the requests of pods that ask for it.
func (m *master) applyAdvice(c *client.Client, recorder record.EventRecorder) []*controller.Controller {
	return []*controller.Controller{advicecontroller.New(advicecontroller.Config{
		Client: c, Recorder: recorder, Quantity: apiadvice.Quantity, Period: m.options.advice.period,
		Needs: func(ctx context.Context, pods []*corev1.Pod) map[types.UID]map[string]advice.Need {
			needs := map[types.UID]map[string]advice.Need{}
			if len(pods) == 0 {
				return needs
			}
			used := m.usage.Now(ctx)
			for _, pod := range pods {
				needs[pod.UID] = m.advice.Need(used, pod, m.options.advice.after)
			}
			return needs
		},
	})}
}
