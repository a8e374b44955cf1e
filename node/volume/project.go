package volume

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/beneath"
	"github.com/kontiki/kontiki/node/downward"
	"github.com/kontiki/kontiki/node/podspec"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// projector collects the files of one volume.
type projector struct {
	m      *Manager
	ctx    context.Context
	pod    *corev1.Pod
	volume string
	dir    string
	hostIP string
	podIPs []string
	mode   int32
	files  map[string]file
}

// file is a file to write.
type file struct {
	data []byte
	mode int32
	uid  int // -1 for root
}

func (p *projector) defaultMode(m *int32) {
	if m != nil {
		p.mode = *m
	}
}

func (p *projector) put(path string, data []byte, mode *int32) error {
	if !filepath.IsLocal(path) || strings.HasPrefix(path, "..") {
		return fmt.Errorf("invalid path %q", path)
	}
	if p.files == nil {
		p.files = map[string]file{}
	}
	f := file{data: data, mode: p.mode, uid: -1}
	if mode != nil {
		f.mode = *mode
	}
	p.files[filepath.Clean(path)] = f
	return nil
}

func optional(b *bool) bool { return b != nil && *b }

func (p *projector) configMap(name string, items []corev1.KeyToPath, opt *bool) error {
	cm, ok := p.m.c.Objects.ConfigMap(p.pod.Namespace, name)
	if !ok {
		if optional(opt) {
			return nil
		}
		return fmt.Errorf("configmap %q not found", name)
	}
	get := func(k string) ([]byte, bool) {
		if v, ok := cm.Data[k]; ok {
			return []byte(v), true
		}
		v, ok := cm.BinaryData[k]
		return v, ok
	}
	var keys []string
	for k := range cm.Data {
		keys = append(keys, k)
	}
	for k := range cm.BinaryData {
		keys = append(keys, k)
	}
	return p.keys(items, keys, get, optional(opt), "configmap references non-existent config key: %s")
}

func (p *projector) secret(name string, items []corev1.KeyToPath, opt *bool) error {
	s, ok := p.m.c.Objects.Secret(p.pod.Namespace, name)
	if !ok {
		if optional(opt) {
			return nil
		}
		return fmt.Errorf("secret %q not found", name)
	}
	var keys []string
	for k := range s.Data {
		keys = append(keys, k)
	}
	return p.keys(items, keys, func(k string) ([]byte, bool) { v, ok := s.Data[k]; return v, ok }, optional(opt), "references non-existent secret key: %s")
}

func (p *projector) keys(items []corev1.KeyToPath, all []string, get func(string) ([]byte, bool), opt bool, missing string) error {
	if len(items) == 0 {
		for _, k := range all {
			v, _ := get(k)
			if err := p.put(k, v, nil); err != nil {
				return err
			}
		}
		return nil
	}
	for _, it := range items {
		v, ok := get(it.Key)
		if !ok {
			if opt {
				continue
			}
			return fmt.Errorf(missing, it.Key)
		}
		if err := p.put(it.Path, v, it.Mode); err != nil {
			return err
		}
	}
	return nil
}

func (p *projector) downward(items []corev1.DownwardAPIVolumeFile) error {
	for _, it := range items {
		var v string
		var err error
		switch {
		case it.FieldRef != nil:
			v, err = downward.Field(p.pod, it.FieldRef.FieldPath, p.hostIP, p.podIPs)
		case it.ResourceFieldRef != nil:
			v, err = downward.Resource(p.pod, nil, it.ResourceFieldRef, p.m.node())
		}
		if err != nil {
			return err
		}
		if err := p.put(it.Path, []byte(v), it.Mode); err != nil {
			return err
		}
	}
	return nil
}

func (p *projector) source(s *corev1.VolumeProjection, index int) error {
	switch {
	case s.ConfigMap != nil:
		return p.configMap(s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional)
	case s.Secret != nil:
		return p.secret(s.Secret.Name, s.Secret.Items, s.Secret.Optional)
	case s.DownwardAPI != nil:
		return p.downward(s.DownwardAPI.Items)
	case s.ServiceAccountToken != nil:
		t := s.ServiceAccountToken
		v, err := p.token(t)
		if err != nil {
			return fmt.Errorf("failed to fetch token: %w", err)
		}
		if err := p.put(t.Path, []byte(v), nil); err != nil {
			return err
		}
		p.own(t.Path)
		return nil
	case s.PodCertificate != nil:
		return p.podCertificate(s.PodCertificate, index)
	case s.ClusterTrustBundle != nil:
		return p.trustBundle(s.ClusterTrustBundle)
	}
	return fmt.Errorf("%w: projected %s", ErrUnsupported, kindOf(*s))
}

// commonUser returns the user that all containers run as, -1 if they differ or none is set.
func commonUser(pod *corev1.Pod) int {
	user := int64(-1)
	for c := range podspec.Containers(pod) {
		var u *int64
		if s := pod.Spec.SecurityContext; s != nil {
			u = s.RunAsUser
		}
		if s := c.SecurityContext; s != nil && s.RunAsUser != nil {
			u = s.RunAsUser
		}
		if u == nil || user >= 0 && user != *u {
			return -1
		}
		user = *u
	}
	return int(user)
}

type tokenKey struct{ uid, volume, path string }

type token struct {
	value string
	renew time.Time // at 80 % of its lifetime
}

// maxToken limits the bytes that are read back as a token.
const maxToken = 64 << 10

// token returns a token with at least a fifth of its lifetime left. While no master can issue one, the last one is kept.
func (p *projector) token(s *corev1.ServiceAccountTokenProjection) (string, error) {
	k := tokenKey{string(p.pod.UID), p.volume, s.Path}
	p.m.mu.Lock()
	t := p.m.tokens[k]
	p.m.mu.Unlock()
	if t == nil { // a previous agent may have written one
		if b, err := beneath.ReadFile(p.dir, s.Path, beneath.Follow, maxToken); err == nil {
			if issued, expires, ok := lifeOf(string(b)); ok {
				t = &token{string(b), renewAt(issued, expires)}
				p.m.keep(k, t)
			}
		}
	}
	if t != nil && time.Now().Before(t.renew) {
		return t.value, nil
	}
	seconds := int64(3600)
	if s.ExpirationSeconds != nil {
		seconds = *s.ExpirationSeconds
	}
	r := &nodev1.CreateTokenRequest{Namespace: p.pod.Namespace, ServiceAccount: p.pod.Spec.ServiceAccountName, PodName: p.pod.Name, PodUid: string(p.pod.UID), ExpirationSeconds: seconds}
	if s.Audience != "" {
		r.Audiences = []string{s.Audience}
	}
	now := time.Now()
	resp, err := p.m.c.Token(p.ctx, r)
	if err != nil {
		if t != nil {
			p.m.keep(k, &token{t.value, now.Add(10 * time.Second)}) // try again soon
			return t.value, nil
		}
		return "", err
	}
	p.m.keep(k, &token{resp.Token, renewAt(now, time.Unix(resp.ExpiresAt, 0))})
	return resp.Token, nil
}

func renewAt(issued, expires time.Time) time.Time {
	at := issued.Add(expires.Sub(issued) * 8 / 10)
	if day := issued.Add(24 * time.Hour); at.After(day) {
		at = day
	}
	return at
}

func (m *Manager) keep(k tokenKey, t *token) {
	m.mu.Lock()
	m.tokens[k] = t
	m.mu.Unlock()
	m.rouse()
}

// lifeOf returns when a token was issued and when it expires. It trusts the token, since the agent wrote the file.
func lifeOf(jwt string) (issued, expires time.Time, ok bool) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return issued, expires, false
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return issued, expires, false
	}
	var c struct{ Iat, Exp int64 }
	if json.Unmarshal(b, &c) != nil || c.Exp == 0 {
		return issued, expires, false
	}
	return time.Unix(c.Iat, 0), time.Unix(c.Exp, 0), true
}
