// Package environ makes the environment variables of containers, from their specs and the objects and files that these name.
package environ

import (
	"fmt"
	"net"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/downward"
	"github.com/kontiki/kontiki/node/runtime"
)

// Expand replaces $(NAME) if lookup knows the name. $$ becomes one dollar; everything else is unchanged.
func Expand(s string, lookup func(string) (string, bool)) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch s[i] {
		case '$':
			b.WriteByte('$')
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				b.WriteString("$(")
				continue
			}
			name := s[i+1 : i+end]
			if v, ok := lookup(name); ok {
				b.WriteString(v)
			} else {
				b.WriteString("$(" + name + ")")
			}
			i += end
		default:
			b.WriteByte('$')
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// Objects are those that variables are taken from. They are read-only.
type Objects interface {
	ConfigMap(namespace, name string) (*corev1.ConfigMap, bool)
	Secret(namespace, name string) (*corev1.Secret, bool)
}

// Sources is what the variables of a pod's containers are made from.
type Sources struct {
	Objects  Objects
	Services []*corev1.Service
	Node     *corev1.Node // nil if it is not known
	NodeIP   string
	PodIPs   []string
	Volumes  map[string]string // the path of each volume on the host, by its name
}

// Variables returns a container's variables: those from whole objects, then its own, then the services' variables not set by
// either. An error names what is missing.
func (s *Sources) Variables(pod *corev1.Pod, c *corev1.Container) ([]runtime.KeyValue, error) {
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	service := ofServices(s.Services, pod.Namespace, links)
	own := map[string]string{}
	var order []string
	set := func(k, v string) {
		if _, ok := own[k]; !ok {
			order = append(order, k)
		}
		own[k] = v
	}
	for _, from := range c.EnvFrom {
		data, err := s.envFrom(pod.Namespace, from)
		if err != nil {
			return nil, err
		}
		for _, kv := range data {
			set(from.Prefix+kv.Name, kv.Value)
		}
	}
	lookup := func(name string) (string, bool) {
		if v, ok := own[name]; ok {
			return v, true
		}
		v, ok := service[name]
		return v, ok
	}
	for i := range c.Env {
		e := &c.Env[i]
		value := e.Value
		switch {
		case value != "":
			value = Expand(value, lookup)
		case e.ValueFrom != nil:
			v, ok, err := s.valueFrom(pod, c, e.ValueFrom)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			value = v
		}
		set(e.Name, value)
	}
	out := make([]runtime.KeyValue, 0, len(order)+len(service))
	for _, k := range order {
		out = append(out, runtime.KeyValue{Name: k, Value: own[k]})
	}
	names := make([]string, 0, len(service))
	for k := range service {
		if _, ok := own[k]; !ok {
			names = append(names, k)
		}
	}
	sort.Strings(names)
	for _, k := range names {
		out = append(out, runtime.KeyValue{Name: k, Value: service[k]})
	}
	return out, nil
}

func (s *Sources) envFrom(namespace string, from corev1.EnvFromSource) ([]runtime.KeyValue, error) {
	data := map[string]string{}
	switch {
	case from.ConfigMapRef != nil:
		cm, ok := s.Objects.ConfigMap(namespace, from.ConfigMapRef.Name)
		if !ok {
			if optional(from.ConfigMapRef.Optional) {
				return nil, nil
			}
			return nil, fmt.Errorf("configmap %q not found", from.ConfigMapRef.Name)
		}
		data = cm.Data
	case from.SecretRef != nil:
		secret, ok := s.Objects.Secret(namespace, from.SecretRef.Name)
		if !ok {
			if optional(from.SecretRef.Optional) {
				return nil, nil
			}
			return nil, fmt.Errorf("secret %q not found", from.SecretRef.Name)
		}
		for k, v := range secret.Data {
			data[k] = string(v)
		}
	}
	out := make([]runtime.KeyValue, 0, len(data))
	for k, v := range data {
		out = append(out, runtime.KeyValue{Name: k, Value: v})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

func optional(b *bool) bool { return b != nil && *b }

// valueFrom resolves one source; ok is false for an optional one that does not exist.
func (s *Sources) valueFrom(pod *corev1.Pod, c *corev1.Container, from *corev1.EnvVarSource) (value string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		v, err := downward.Field(pod, from.FieldRef.FieldPath, s.NodeIP, s.PodIPs)
		return v, true, err
	case from.ResourceFieldRef != nil:
		v, err := downward.Resource(pod, c, from.ResourceFieldRef, s.Node)
		return v, true, err
	case from.ConfigMapKeyRef != nil:
		r := from.ConfigMapKeyRef
		cm, ok := s.Objects.ConfigMap(pod.Namespace, r.Name)
		if !ok {
			if optional(r.Optional) {
				return "", false, nil
			}
			return "", false, fmt.Errorf("configmap %q not found", r.Name)
		}
		v, ok := cm.Data[r.Key]
		if !ok && !optional(r.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", r.Key, pod.Namespace, r.Name)
		}
		return v, ok, nil
	case from.SecretKeyRef != nil:
		r := from.SecretKeyRef
		secret, ok := s.Objects.Secret(pod.Namespace, r.Name)
		if !ok {
			if optional(r.Optional) {
				return "", false, nil
			}
			return "", false, fmt.Errorf("secret %q not found", r.Name)
		}
		v, ok := secret.Data[r.Key]
		if !ok && !optional(r.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", r.Key, pod.Namespace, r.Name)
		}
		return string(v), ok, nil
	case from.FileKeyRef != nil:
		return fileKey(from.FileKeyRef, s.Volumes)
	}
	return "", false, fmt.Errorf("the source of an environment variable has an unsupported kind")
}

// Unfit returns the name of the first variable whose value cannot be passed to a process, "" if there is none.
func Unfit(env []runtime.KeyValue) string {
	for _, v := range env {
		if !utf8.ValidString(v.Value) || strings.IndexByte(v.Value, 0) >= 0 {
			return v.Name
		}
	}
	return ""
}

// ofServices returns the variables of services: those in the pod's namespace if links are enabled, and always the API's own.
func ofServices(services []*corev1.Service, namespace string, links bool) map[string]string {
	chosen := map[string]*corev1.Service{}
	for _, s := range services {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone {
			continue
		}
		if s.Namespace == corev1.NamespaceDefault && s.Name == "kubernetes" {
			if chosen[s.Name] == nil {
				chosen[s.Name] = s
			}
		} else if s.Namespace == namespace && links {
			chosen[s.Name] = s
		}
	}
	out := map[string]string{}
	for _, s := range chosen {
		if len(s.Spec.Ports) == 0 {
			continue
		}
		prefix := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
		ip := s.Spec.ClusterIP
		out[prefix+"_SERVICE_HOST"] = ip
		out[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
		for i, p := range s.Spec.Ports {
			port := strconv.Itoa(int(p.Port))
			if p.Name != "" {
				out[prefix+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_"))] = port
			}
			protocol := strings.ToLower(string(p.Protocol))
			if protocol == "" {
				protocol = "tcp"
			}
			url := protocol + "://" + net.JoinHostPort(ip, port)
			if i == 0 {
				out[prefix+"_PORT"] = url
			}
			link := prefix + "_PORT_" + port + "_" + strings.ToUpper(protocol)
			out[link], out[link+"_PROTO"], out[link+"_PORT"], out[link+"_ADDR"] = url, protocol, port, ip
		}
	}
	return out
}
