// Package devicetainteviction deletes pods that use devices with the effect NoExecute, which drivers set in ResourceSlices and
// administrators in DeviceTaintRules, unless the pods' claims tolerate it. It also says in the status of a rule what the rule does.
package devicetainteviction

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// Config has the dependencies and the settings of the controllers.
type Config struct {
	Client   *client.Client
	Recorder record.EventRecorder
	// Now is the clock; nil means the real one.
	Now func() time.Time
	// StatusPeriod is how often the status of a rule is updated while pods are evicted; 0 means 10 s.
	StatusPeriod time.Duration
}

type reconciler struct {
	Config
	mu      sync.Mutex
	waiting map[controller.Key]types.UID // pods that will be deleted at a later time
	evicted map[types.UID]int            // how many pods were deleted for each rule
}

// New returns the controllers, of pods and of rules.
func New(config Config) []*controller.Controller {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.StatusPeriod == 0 {
		config.StatusPeriod = 10 * time.Second
	}
	r := &reconciler{Config: config, waiting: map[controller.Key]types.UID{}, evicted: map[types.UID]int{}}
	kinds := []client.Object{&corev1.Pod{}, &resourcev1.ResourceClaim{}, &resourcev1.ResourceSlice{}, &resourcev1.DeviceTaintRule{}}
	return []*controller.Controller{
		{
			Name: "device-taint-eviction", Watches: kinds,
			Start: func(v client.View, enqueue func(controller.Key)) {
				for _, claim := range allocated.Any(v, everyDevice) {
					enqueuePods(v, claim, enqueue)
				}
			},
			Enqueue: enqueue, Reconcile: r.syncPod,
		},
		{
			Name: "device-taint-rule-status", Watches: kinds, Workers: 1,
			Start: enqueueRules, Enqueue: r.enqueueRule, Reconcile: r.syncRule,
		},
	}
}

// deletion is when and why a pod is to be deleted.
type deletion struct {
	at    time.Time
	rules []*resourcev1.DeviceTaintRule
}

// deletionOf returns when a pod is to be deleted because of the devices that it uses; nil if it is not.
func deletionOf(v client.View, pod *corev1.Pod, rules []*resourcev1.DeviceTaintRule) (found *deletion) {
	if pod.Spec.NodeName == "" || pod.DeletionTimestamp != nil {
		return nil
	}
	for _, name := range claimNames(pod) {
		claim, ok := client.Get[*resourcev1.ResourceClaim](v, pod.Namespace, name)
		if !ok || claim.Status.Allocation == nil || !reservedFor(claim, pod) {
			continue
		}
		for i := range claim.Status.Allocation.Devices.Results {
			device := &claim.Status.Allocation.Devices.Results[i]
			for _, taint := range taintsOf(v, device, rules) {
				at, evicts := evictionTime(device, taint.taint)
				if !evicts {
					continue
				}
				if found == nil {
					found = &deletion{at: at}
				}
				if at.Before(found.at) {
					found.at = at
				}
				if taint.rule != nil {
					found.rules = append(found.rules, taint.rule)
				}
			}
		}
	}
	return found
}

// evictionTime returns when a taint ends the use of a device; evicts is false if it is tolerated for ever. Of several tolerations the
// shortest counts.
func evictionTime(device *resourcev1.DeviceRequestAllocationResult, taint *resourcev1.DeviceTaint) (at time.Time, evicts bool) {
	if taint.TimeAdded == nil {
		return time.Time{}, false // the API sets it
	}
	tolerated := int64(-1)
	for i := range device.Tolerations {
		t := &device.Tolerations[i]
		if t.Effect != resourcev1.DeviceTaintEffectNoExecute || !tolerates(t, taint) {
			continue
		}
		if t.TolerationSeconds == nil {
			return time.Time{}, false
		}
		if seconds := max(*t.TolerationSeconds, 0); tolerated < 0 || seconds < tolerated {
			tolerated = seconds
		}
	}
	return taint.TimeAdded.Add(time.Duration(max(tolerated, 0)) * time.Second), true
}

func tolerates(t *resourcev1.DeviceToleration, taint *resourcev1.DeviceTaint) bool {
	if t.Key != "" && t.Key != taint.Key {
		return false
	}
	return t.Operator == resourcev1.DeviceTolerationOpExists || (t.Operator == "" || t.Operator == resourcev1.DeviceTolerationOpEqual) && t.Value == taint.Value
}

// syncPod deletes a pod when it is time.
func (r *reconciler) syncPod(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	pod, ok := client.Get[*corev1.Pod](v, key.Namespace, key.Name)
	if !ok || pod.DeletionTimestamp != nil {
		r.forget(key)
		return controller.Result{}, nil
	}
	d := deletionOf(v, pod, evictingRules(v))
	if d == nil {
		if r.forget(key) == pod.UID {
			r.Recorder.Event(pod, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Cancelling deletion")
		}
		return controller.Result{}, nil
	}
	if left := d.at.Sub(r.Now()); left > 0 {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.waiting[key] = pod.UID
		return controller.Result{After: left}, nil
	}
	return controller.Result{}, r.evict(ctx, pod, d)
}

// forget removes a pod from those that wait, and returns its UID if it did.
func (r *reconciler) forget(key controller.Key) types.UID {
	r.mu.Lock()
	defer r.mu.Unlock()
	uid := r.waiting[key]
	delete(r.waiting, key)
	return uid
}

// evict says in a pod's status why it is deleted, and deletes it.
func (r *reconciler) evict(ctx context.Context, pod *corev1.Pod, d *deletion) error {
	changed := pod.DeepCopy()
	client.SetPodCondition(changed, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation,
		Reason: "DeletionByDeviceTaintManager", Message: "Device Taint manager: deleting due to NoExecute taint", LastTransitionTime: metav1.NewTime(r.Now())})
	if _, err := client.UpdateStatus(ctx, r.Client, changed); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("set the condition of pod %s: %w", pod.Name, err)
	}
	r.Recorder.Event(pod, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Marking for deletion")
	if err := r.Client.Delete(ctx, pod, client.IfUID(pod.UID)); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	}
	r.forget(controller.KeyOf(pod))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rule := range d.rules {
		r.evicted[rule.UID]++
	}
	return nil
}
