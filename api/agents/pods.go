package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/objects"
)

// Pod reads the pod that a request names, linearizably.
func (a *Agents) Pod(ctx context.Context, r *objects.Request) (*corev1.Pod, error) {
	v, err := a.objects.Get(ctx, r, "")
	if err != nil {
		return nil, err
	}
	obj, err := a.objects.Decode(r.Kind, v)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return obj.(*corev1.Pod), nil
}

// ContainerOf returns the container that a request asks for, or an error with upstream's message.
func ContainerOf(pod *corev1.Pod, asked string) (string, error) {
	var names []string
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, container := range list {
			names = append(names, container.Name)
		}
	}
	for _, container := range pod.Spec.EphemeralContainers {
		names = append(names, container.Name)
	}
	if asked == "" {
		if len(pod.Spec.Containers) == 1 {
			return pod.Spec.Containers[0].Name, nil
		}
		return "", objects.InField("container", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, names)))
	}
	for _, name := range names {
		if name == asked {
			return name, nil
		}
	}
	return "", objects.InField("container", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", asked, pod.Name)))
}

// target returns the URL of a path at the agent of a pod's node.
func (a *Agents) target(ctx context.Context, pod *corev1.Pod, path string, query url.Values) (*url.URL, error) {
	if pod.Spec.NodeName == "" {
		return nil, objects.InField("name", apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name)))
	}
	location, err := a.URL(ctx, pod.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	location.Path, location.RawQuery = path, query.Encode()
	return location, nil
}

// Streams says which streams are attached to a process.
type Streams struct{ Stdin, Stdout, Stderr, TTY bool }

// Exec returns the agent's URL for running a command in a pod's container ("" for its only one).
func (a *Agents) Exec(ctx context.Context, pod *corev1.Pod, container string, command []string, s Streams) (*url.URL, error) {
	if len(command) == 0 {
		if _, err := ContainerOf(pod, container); err != nil {
			return nil, err
		}
		return nil, objects.InField("command", apierrors.NewBadRequest("you must specify at least 1 command"))
	}
	return a.streams(ctx, "exec", pod, container, url.Values{"command": command}, s)
}

// Attach returns the agent's URL for attaching to a container's process.
func (a *Agents) Attach(ctx context.Context, pod *corev1.Pod, container string, s Streams) (*url.URL, error) {
	return a.streams(ctx, "attach", pod, container, url.Values{}, s)
}

func (a *Agents) streams(ctx context.Context, verb string, pod *corev1.Pod, asked string, query url.Values, s Streams) (*url.URL, error) {
	container, err := ContainerOf(pod, asked)
	if err != nil {
		return nil, err
	}
	if !s.Stdin && !s.Stdout && !s.Stderr {
		return nil, apierrors.NewBadRequest("you must specify at least one of stdin, stdout, stderr")
	}
	for name, set := range map[string]bool{"input": s.Stdin, "output": s.Stdout, "error": s.Stderr && !s.TTY, "tty": s.TTY} {
		if set {
			query.Set(name, "1")
		}
	}
	return a.target(ctx, pod, fmt.Sprintf("/%s/%s/%s/%s", verb, pod.Namespace, pod.Name, container), query)
}

// PortForward returns the agent's URL for connections to a pod's ports.
func (a *Agents) PortForward(ctx context.Context, pod *corev1.Pod, query url.Values) (*url.URL, error) {
	return a.target(ctx, pod, fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name), query)
}

// CheckLogOptions refuses invalid numbers.
func CheckLogOptions(o *corev1.PodLogOptions) error {
	for _, f := range []struct {
		name  string
		value *int64
		least int64
		want  string
	}{
		{"tailLines", o.TailLines, 0, "must be greater than or equal to 0"},
		{"limitBytes", o.LimitBytes, 1, "must be greater than 0"},
		{"sinceSeconds", o.SinceSeconds, 1, "must be greater than 0"},
	} {
		if f.value != nil && *f.value < f.least {
			return objects.InField(f.name, apierrors.NewBadRequest(fmt.Sprintf("%s: Invalid value: %d: %s", f.name, *f.value, f.want)))
		}
	}
	if o.SinceSeconds != nil && o.SinceTime != nil {
		return apierrors.NewBadRequest("at most one of `sinceTime` or `sinceSeconds` may be specified")
	}
	return nil
}

// Logs opens a container's log, which the caller must close. It is empty for a pod that has no node yet.
func (a *Agents) Logs(ctx context.Context, pod *corev1.Pod, o *corev1.PodLogOptions) (io.ReadCloser, error) {
	if err := CheckLogOptions(o); err != nil {
		return nil, err
	}
	container, err := ContainerOf(pod, o.Container)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName == "" {
		return http.NoBody, nil
	}
	location, err := a.target(ctx, pod, fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, container), logQuery(o))
	if err != nil {
		return nil, err
	}
	transport, err := a.Transport(pod.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, location.String(), nil)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("the agent of the pod's node does not answer: %v", err))
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4096)) // an incomplete text is good enough for the message
		return nil, refusal(response.StatusCode, pod, strings.TrimSpace(string(text)))
	}
	return response.Body, nil
}

// refusal returns the error for an agent's response without a log. It contains the agent's text if the code alone says no more, as
// upstream's does.
func refusal(code int, pod *corev1.Pod, text string) error {
	switch code {
	case http.StatusBadRequest:
		return apierrors.NewBadRequest(text)
	case http.StatusInternalServerError:
		return apierrors.NewInternalError(errors.New(text))
	}
	return apierrors.NewGenericServerResponse(code, "get", corev1.Resource("pods"), pod.Name, text, 0, true)
}

func logQuery(o *corev1.PodLogOptions) url.Values {
	q := url.Values{}
	for name, set := range map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps} {
		if set {
			q.Set(name, "true")
		}
	}
	for name, n := range map[string]*int64{"tailLines": o.TailLines, "limitBytes": o.LimitBytes, "sinceSeconds": o.SinceSeconds} {
		if n != nil {
			q.Set(name, strconv.FormatInt(*n, 10))
		}
	}
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.Format(time.RFC3339))
	}
	return q
}
