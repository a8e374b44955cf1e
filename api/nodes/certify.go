package nodes

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

const (
	// certifyWait is how long a call waits for the signer's decision; the worker calls again.
	certifyWait = 5 * time.Second
	// maxUndecided limits the requests of one pod that no signer has decided, as a worker chooses when to make one.
	maxUndecided = 20
	// maxPKCS10 limits a certificate request in bytes; one of a key of 4096 bits has about 1,200.
	maxPKCS10 = 16 << 10
)

// requestsByPod finds PodCertificateRequests by the UID of their pod.
var requestsByPod = client.NewIndex(func(r *certificatesv1.PodCertificateRequest, add func(string)) { add(string(r.Spec.PodUID)) })

// CertifyPod implements NodeService. What is requested of which signer is what the pod's own volume says; the worker adds only the key.
func (s *Server) CertifyPod(ctx context.Context, r *nodev1.CertifyPodRequest) (*nodev1.CertifyPodResponse, error) {
	view, pod, err := s.callersPod(ctx, r)
	if err != nil {
		return nil, err
	}
	name := r.Request
	if name == "" {
		created, err := s.requestCertificate(ctx, view, pod, r)
		if err != nil {
			return nil, err
		}
		name = created.Name
	}
	return s.awaitCertificate(ctx, pod, name)
}

// requestCertificate creates a PodCertificateRequest for a source of a pod's volume.
func (s *Server) requestCertificate(ctx context.Context, view client.View, pod *corev1.Pod, r *nodev1.CertifyPodRequest) (*certificatesv1.PodCertificateRequest, error) {
	source := certificateSource(pod, r.Volume, int(r.Source))
	if source == nil {
		return nil, status.Errorf(codes.PermissionDenied, "source %d of the volume %q of pod %s/%s is no podCertificate", r.Source, r.Volume, pod.Namespace, pod.Name)
	}
	if len(r.Pkcs10) > maxPKCS10 {
		return nil, status.Errorf(codes.InvalidArgument, "pkcs10: %d bytes, the limit is %d", len(r.Pkcs10), maxPKCS10)
	}
	undecided := 0
	for _, other := range requestsByPod.Any(view, string(pod.UID)) {
		if len(other.Status.Conditions) == 0 {
			undecided++
		}
	}
	if undecided >= maxUndecided {
		return nil, status.Errorf(codes.ResourceExhausted, "pod %s/%s has %d certificate requests that no signer has decided", pod.Namespace, pod.Name, undecided)
	}
	account, ok := client.Get[*corev1.ServiceAccount](view, pod.Namespace, pod.Spec.ServiceAccountName)
	if !ok {
		return nil, status.Error(codes.NotFound, apierrors.NewNotFound(corev1.Resource("serviceaccounts"), pod.Spec.ServiceAccountName).Error())
	}
	node, ok := client.Get[*corev1.Node](view, "", pod.Spec.NodeName)
	if !ok {
		return nil, status.Error(codes.NotFound, apierrors.NewNotFound(corev1.Resource("nodes"), pod.Spec.NodeName).Error())
	}
	request, err := client.Create(ctx, s.Client, &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, GenerateName: "req-",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}}},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: source.SignerName, PodName: pod.Name, PodUID: pod.UID, ServiceAccountName: account.Name, ServiceAccountUID: account.UID,
			NodeName: types.NodeName(node.Name), NodeUID: node.UID, MaxExpirationSeconds: source.MaxExpirationSeconds,
			StubPKCS10Request: r.Pkcs10, UnverifiedUserAnnotations: source.UserAnnotations,
		},
	})
	if err != nil {
		code := codes.Unavailable
		if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) {
			code = codes.InvalidArgument
		}
		return nil, status.Error(code, err.Error())
	}
	return request, nil
}

func certificateSource(pod *corev1.Pod, volume string, source int) *corev1.PodCertificateProjection {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Name == volume && v.Projected != nil && source >= 0 && source < len(v.Projected.Sources) {
			return v.Projected.Sources[source].PodCertificate
		}
	}
	return nil
}

var errDecided = errors.New("decided")

// awaitCertificate waits for the decision about a pod's request.
func (s *Server) awaitCertificate(ctx context.Context, pod *corev1.Pod, name string) (*nodev1.CertifyPodResponse, error) {
	var response *nodev1.CertifyPodResponse
	look := func(v client.View) error {
		request, ok := client.Get[*certificatesv1.PodCertificateRequest](v, pod.Namespace, name)
		if !ok || request.Spec.PodUID != pod.UID {
			return status.Errorf(codes.NotFound, "the request %s/%s of the pod is gone", pod.Namespace, name)
		}
		response = decision(request)
		if response.Decision != nodev1.CertifyPodResponse_DECISION_PENDING {
			return errDecided
		}
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, certifyWait)
	defer cancel()
	err := s.Client.ViewAndWatch(waiting, []client.Object{&certificatesv1.PodCertificateRequest{}}, look, func(events []client.Event) error {
		for _, event := range events {
			if event.Object().GetName() == name && event.Object().GetNamespace() == pod.Namespace {
				return look(s.Client.View())
			}
		}
		return nil
	})
	switch {
	case errors.Is(err, errDecided), errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && response != nil:
		return response, nil
	case status.Code(err) == codes.NotFound:
		return nil, err
	}
	return nil, status.FromContextError(ctx.Err()).Err()
}

func decision(r *certificatesv1.PodCertificateRequest) *nodev1.CertifyPodResponse {
	out := &nodev1.CertifyPodResponse{Request: r.Name, Decision: nodev1.CertifyPodResponse_DECISION_PENDING}
	for _, c := range r.Status.Conditions {
		switch c.Type {
		case certificatesv1.PodCertificateRequestConditionTypeIssued:
			out.Decision = nodev1.CertifyPodResponse_DECISION_ISSUED
		case certificatesv1.PodCertificateRequestConditionTypeDenied:
			out.Decision = nodev1.CertifyPodResponse_DECISION_DENIED
		case certificatesv1.PodCertificateRequestConditionTypeFailed:
			out.Decision = nodev1.CertifyPodResponse_DECISION_FAILED
		default:
			continue
		}
		out.Reason, out.Message, out.CertificateChain = c.Reason, c.Message, r.Status.CertificateChain
	}
	if r.Status.BeginRefreshAt != nil {
		out.BeginRefreshAt = r.Status.BeginRefreshAt.Unix()
	}
	if r.Status.NotAfter != nil {
		out.NotAfter = r.Status.NotAfter.Unix()
	}
	return out
}
