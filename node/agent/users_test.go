package agent

import (
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestRealPodsHaveUsersOfTheirOwn: pods with hostUsers: false have different users on the host, also after a restart of the agent, and inside
// their volumes' files have the owners that they have in any pod.
func TestRealPodsHaveUsersOfTheirOwn(t *testing.T) {
	w := newWorld(t)
	if why := w.runtime.Features().NoUserNamespaces; why != "" {
		t.Skip(why) // the kernel or the file system has no idmapped mounts
	}
	if err := os.Chmod(w.daemon.Dir, 0o711); err != nil { // as /run: the pods' roots have their bundles below
		t.Fatal(err)
	}
	config := &corev1.ConfigMap{Data: map[string]string{"key": "value"}}
	config.Namespace, config.Name = "default", "config"
	w.master.config(config)
	secret := &corev1.Secret{Data: map[string][]byte{"key": []byte("value")}}
	secret.Namespace, secret.Name = "default", "secret"
	w.master.secret(secret)
	group := int64(3000)
	mapped := func(name string) *corev1.Pod {
		c := sh("touch /data/mine && exec sleep 100000")
		for _, v := range []string{"data", "config", "secret", "fields", "token"} {
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: v, MountPath: "/" + v})
		}
		p := testPod(name, c)
		p.Spec.HostUsers, p.Spec.TerminationGracePeriodSeconds = ptr(false), ptr(int64(0))
		p.Spec.ServiceAccountName = "default"
		p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
		p.Spec.Volumes = []corev1.Volume{
			podVolume("data", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
			podVolume("config", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "config"}, DefaultMode: ptr(int32(0o400))}}),
			podVolume("secret", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "secret", DefaultMode: ptr(int32(0o400))}}),
			podVolume("fields", corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{DefaultMode: ptr(int32(0o400)),
				Items: []corev1.DownwardAPIVolumeFile{{Path: "key", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}}),
			podVolume("token", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: ptr(int32(0o400)),
				Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "key", ExpirationSeconds: ptr(int64(3600))}}}}}),
		}
		w.master.pod(p)
		w.master.awaitPod(p.UID, "running", running)
		return p
	}
	line := func(p *corev1.Pod, script string) string {
		t.Helper()
		return strings.Join(strings.Fields(w.exec(p, "c1", "sh", "-c", script)), " ")
	}
	one, two := mapped("one"), mapped("two")
	first, second := line(one, "cat /proc/self/uid_map"), line(two, "cat /proc/self/uid_map")
	if first == second || !strings.HasPrefix(first, "0 ") || strings.HasPrefix(first, "0 0 ") || !strings.HasSuffix(first, " 65536") {
		t.Errorf("the pods have %q and %q", first, second)
	}
	for script, want := range map[string]string{
		"stat -c %u:%g /data":             "0:3000",
		"stat -c %u:%g /data/mine":        "0:3000",
		"cat /config/key":                 "value",
		"cat /secret/key":                 "value",
		"stat -Lc %u:%g /secret/key":      "0:3000",
		"cat /fields/key":                 "one",
		"cat /token/key | cut -c1-5":      "token",
		"stat -c %u /etc/hosts":           "0",
		"echo x >> /etc/hosts; echo $?":   "0",
		"echo x > /dev/termination-log":   "",
		"stat -c %u /dev/termination-log": "0",
	} {
		if got := line(one, script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	w.stop()
	w.start()
	three := mapped("three")
	if got := line(one, "cat /proc/self/uid_map"); got != first {
		t.Errorf("after a restart the pod has %q, it had %q", got, first)
	}
	if third := line(three, "cat /proc/self/uid_map"); third == first || third == second {
		t.Errorf("a third pod has another's users: %q", third)
	}
	for _, p := range []*corev1.Pod{one, two, three} {
		w.master.remove("pods", p.Namespace, p.Name)
		w.awaitGone(p)
	}
	if left, err := os.ReadDir(w.config.StateDir + "/mapped"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
