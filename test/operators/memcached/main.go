// Command memcached is an operator as controller-runtime's users write them: for each Memcached it keeps a Deployment of the size that the object
// asks for, shows the pods in the object's status, and answers a validating webhook.
package main

import (
	"context"
	"fmt"
	"log"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

func main() {
	ctrl.SetLogger(zap.New())
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	scheme := clientgoscheme.Scheme
	scheme.AddKnownTypes(groupVersion, &Memcached{}, &MemcachedList{})
	metav1.AddToGroupVersion(scheme, groupVersion)
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme, HealthProbeBindAddress: ":8081", LeaderElection: true, LeaderElectionID: "memcached.example.com", LeaderElectionReleaseOnCancel: true,
		WebhookServer: webhook.NewServer(webhook.Options{Port: 9443, CertDir: "/certificate"}),
	})
	if err != nil {
		return err
	}
	err = ctrl.NewControllerManagedBy(manager).For(&Memcached{}).Owns(&appsv1.Deployment{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(ofPod)).Complete(&reconciler{manager.GetClient()})
	if err != nil {
		return err
	}
	if err := ctrl.NewWebhookManagedBy(manager, &Memcached{}).WithValidator(validator{}).Complete(); err != nil {
		return err
	}
	if err := manager.AddReadyzCheck("webhook", manager.GetWebhookServer().StartedChecker()); err != nil {
		return err
	}
	return manager.Start(ctrl.SetupSignalHandler())
}

// ofPod returns whose pod it is.
func ofPod(_ context.Context, pod client.Object) []ctrl.Request {
	name := pod.GetLabels()["memcached"]
	if name == "" {
		return nil
	}
	return []ctrl.Request{{NamespacedName: types.NamespacedName{Namespace: pod.GetNamespace(), Name: name}}}
}

type reconciler struct{ client.Client }

func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var m Memcached
	if err := r.Get(ctx, request.NamespacedName, &m); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name}}
	labels := map[string]string{"memcached": m.Name}
	_, err := controllerutil.CreateOrUpdate(ctx, r.Client, deployment, func() error {
		deployment.Spec.Replicas = &m.Spec.Size
		deployment.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
		deployment.Spec.Template.Labels = labels
		deployment.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(1))
		if len(deployment.Spec.Template.Spec.Containers) == 0 { // the API server's defaults of a container stay as they are
			deployment.Spec.Template.Spec.Containers = make([]corev1.Container, 1)
		}
		c := &deployment.Spec.Template.Spec.Containers[0]
		c.Name, c.Image, c.ImagePullPolicy, c.Command = "memcached", m.Spec.Image, corev1.PullIfNotPresent, []string{"sleep", "3600"}
		return controllerutil.SetControllerReference(&m, deployment, r.Scheme())
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	var pods corev1.PodList
	if err := r.List(ctx, &pods, client.InNamespace(m.Namespace), client.MatchingLabels(labels)); err != nil {
		return ctrl.Result{}, err
	}
	m.Status.Nodes = nil
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil {
			m.Status.Nodes = append(m.Status.Nodes, p.Name)
		}
	}
	slices.Sort(m.Status.Nodes)
	m.Status.ObservedGeneration = m.Generation
	available := metav1.Condition{Type: "Available", Status: metav1.ConditionFalse, Reason: "Deploying", ObservedGeneration: m.Generation}
	if s := deployment.Status; s.ObservedGeneration == deployment.Generation && s.AvailableReplicas == m.Spec.Size && s.Replicas == m.Spec.Size {
		available.Status, available.Reason = metav1.ConditionTrue, "Deployed"
	}
	available.Message = fmt.Sprintf("%d of %d pods are available", deployment.Status.AvailableReplicas, m.Spec.Size)
	meta.SetStatusCondition(&m.Status.Conditions, available)
	return ctrl.Result{}, r.Status().Update(ctx, &m)
}

// validator refuses what a schema cannot express: a size that is even, and an image that changes.
type validator struct{}

func (validator) ValidateCreate(_ context.Context, m *Memcached) (admission.Warnings, error) {
	return validate(m, nil)
}

func (validator) ValidateUpdate(_ context.Context, old, m *Memcached) (admission.Warnings, error) {
	var errs field.ErrorList
	if old.Spec.Image != m.Spec.Image {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "image"), "it may not change"))
	}
	return validate(m, errs)
}

func (validator) ValidateDelete(context.Context, *Memcached) (admission.Warnings, error) {
	return nil, nil
}

func validate(m *Memcached, errs field.ErrorList) (admission.Warnings, error) {
	if m.Spec.Size%2 == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "size"), m.Spec.Size, "it must be odd"))
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(groupVersion.WithKind("Memcached").GroupKind(), m.Name, errs)
	}
	if m.Spec.Size == 1 {
		return admission.Warnings{"one pod is not highly available"}, nil
	}
	return nil, nil
}
