package pods

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kontiki/kontiki/node/fit"
	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/fake"
	"github.com/kontiki/kontiki/node/userns"
	"github.com/kontiki/kontiki/node/volume"
)

// fate says how a node treats a field of a pod's spec.
type fate uint8

const (
	done    fate = iota + 1
	masters      // it is no node's concern: scheduling, admission, defaulting
	refused      // Admit refuses the pod
	unmade       // the volume is refused when it is mounted, and the pod waits, as for a driver that is missing
)

// fates has every field below PodSpec, as "Type.Field". A field of a new API version fails the test until somebody has added it
// here.
var fates = map[string]fate{
	"PodSpec.Volumes": done, "PodSpec.InitContainers": done, "PodSpec.Containers": done, "PodSpec.EphemeralContainers": done,
	"PodSpec.RestartPolicy": done, "PodSpec.TerminationGracePeriodSeconds": done, "PodSpec.ActiveDeadlineSeconds": done, "PodSpec.DNSPolicy": done,
	"PodSpec.NodeSelector": done, "PodSpec.ServiceAccountName": done, "PodSpec.DeprecatedServiceAccount": masters, "PodSpec.AutomountServiceAccountToken": masters,
	"PodSpec.NodeName": done, "PodSpec.HostNetwork": done, "PodSpec.HostPID": done, "PodSpec.HostIPC": done, "PodSpec.ShareProcessNamespace": done,
	"PodSpec.SecurityContext": done, "PodSpec.ImagePullSecrets": done, "PodSpec.Hostname": done, "PodSpec.Subdomain": done, "PodSpec.Affinity": done,
	"PodSpec.SchedulerName": masters, "PodSpec.Tolerations": done, "PodSpec.HostAliases": done, "PodSpec.PriorityClassName": done, "PodSpec.Priority": done,
	"PodSpec.DNSConfig": done, "PodSpec.ReadinessGates": done, "PodSpec.RuntimeClassName": done, "PodSpec.EnableServiceLinks": done,
	"PodSpec.PreemptionPolicy": masters, "PodSpec.Overhead": done, "PodSpec.TopologySpreadConstraints": masters, "PodSpec.SetHostnameAsFQDN": done,
	"PodSpec.OS": done, "PodSpec.HostUsers": done, "PodSpec.SchedulingGates": masters, "PodSpec.ResourceClaims": refused, "PodSpec.Resources": done,
	"PodSpec.HostnameOverride": done, "PodSpec.SchedulingGroup": masters, "PodSpec.EvictionResponders": masters,

	"PodSecurityContext.SELinuxOptions": refused, "PodSecurityContext.WindowsOptions": masters, // of no effect on Linux
	"PodSecurityContext.RunAsUser": done, "PodSecurityContext.RunAsGroup": done, "PodSecurityContext.RunAsNonRoot": done,
	"PodSecurityContext.SupplementalGroups": done, "PodSecurityContext.SupplementalGroupsPolicy": done, "PodSecurityContext.FSGroup": done,
	"PodSecurityContext.Sysctls": done, "PodSecurityContext.FSGroupChangePolicy": done,
	"PodSecurityContext.SeccompProfile": done, "PodSecurityContext.AppArmorProfile": done, "PodSecurityContext.SELinuxChangePolicy": done, // of volumes with labels
	"Sysctl.Name": done, "Sysctl.Value": done, "SeccompProfile.Type": done, "SeccompProfile.LocalhostProfile": done,
	"AppArmorProfile.Type": done, "AppArmorProfile.LocalhostProfile": done,

	"Container.Name": done, "Container.Image": done, "Container.Command": done, "Container.Args": done, "Container.WorkingDir": done, "Container.Ports": done,
	"Container.EnvFrom": done, "Container.Env": done, "Container.Resources": done, "Container.ResizePolicy": masters, // says what a resize does, which the API does not serve
	"Container.RestartPolicy": done, "Container.RestartPolicyRules": done, "Container.VolumeMounts": done, "Container.VolumeDevices": done,
	"Container.LivenessProbe": done, "Container.ReadinessProbe": done, "Container.StartupProbe": done, "Container.Lifecycle": done,
	"Container.TerminationMessagePath": done, "Container.TerminationMessagePolicy": done, "Container.ImagePullPolicy": done, "Container.SecurityContext": done,
	"Container.Stdin": done, "Container.StdinOnce": done, "Container.TTY": done,
	"EphemeralContainer.EphemeralContainerCommon": done, "EphemeralContainer.TargetContainerName": done,
	"ContainerPort.Name": done, "ContainerPort.HostPort": done, "ContainerPort.ContainerPort": done, "ContainerPort.Protocol": done, "ContainerPort.HostIP": done,
	"ResourceRequirements.Limits": done, "ResourceRequirements.Requests": done, "ResourceRequirements.Claims": refused,
	"ContainerRestartRule.Action": refused, "ContainerRestartRule.ExitCodes": done,
	"ContainerRestartRuleOnExitCodes.Operator": done, "ContainerRestartRuleOnExitCodes.Values": done,

	"EnvVar.Name": done, "EnvVar.Value": done, "EnvVar.ValueFrom": done, "EnvVarSource.FieldRef": done, "EnvVarSource.ResourceFieldRef": done,
	"EnvVarSource.ConfigMapKeyRef": done, "EnvVarSource.SecretKeyRef": done, "EnvVarSource.FileKeyRef": done,
	"FileKeySelector.VolumeName": done, "FileKeySelector.Path": done, "FileKeySelector.Key": done, "FileKeySelector.Optional": done,
	"ObjectFieldSelector.APIVersion": masters, "ObjectFieldSelector.FieldPath": done,
	"ResourceFieldSelector.ContainerName": done, "ResourceFieldSelector.Resource": done, "ResourceFieldSelector.Divisor": done,
	"ConfigMapKeySelector.LocalObjectReference": done, "ConfigMapKeySelector.Key": done, "ConfigMapKeySelector.Optional": done,
	"SecretKeySelector.LocalObjectReference": done, "SecretKeySelector.Key": done, "SecretKeySelector.Optional": done,
	"EnvFromSource.Prefix": done, "EnvFromSource.ConfigMapRef": done, "EnvFromSource.SecretRef": done,
	"ConfigMapEnvSource.LocalObjectReference": done, "ConfigMapEnvSource.Optional": done,
	"SecretEnvSource.LocalObjectReference": done, "SecretEnvSource.Optional": done, "LocalObjectReference.Name": done,

	"VolumeDevice.Name": done, "VolumeDevice.DevicePath": done,
	"VolumeMount.Name": done, "VolumeMount.ReadOnly": done, "VolumeMount.RecursiveReadOnly": done, "VolumeMount.MountPath": done, "VolumeMount.SubPath": done,
	"VolumeMount.MountPropagation": done, "VolumeMount.SubPathExpr": done, "VolumeMount.BindMountOptions": refused,

	"Probe.ProbeHandler": done, "Probe.InitialDelaySeconds": done, "Probe.TimeoutSeconds": done, "Probe.PeriodSeconds": done, "Probe.SuccessThreshold": done,
	"Probe.FailureThreshold": done, "Probe.TerminationGracePeriodSeconds": done,
	"ProbeHandler.Exec": done, "ProbeHandler.HTTPGet": done, "ProbeHandler.TCPSocket": done, "ProbeHandler.GRPC": done,
	"Lifecycle.PostStart": done, "Lifecycle.PreStop": done, "Lifecycle.StopSignal": done,
	"LifecycleHandler.Exec": done, "LifecycleHandler.HTTPGet": done, "LifecycleHandler.TCPSocket": done, "LifecycleHandler.Sleep": done,
	"ExecAction.Command": done, "SleepAction.Seconds": done, "TCPSocketAction.Port": done, "TCPSocketAction.Host": done,
	"GRPCAction.Port": done, "GRPCAction.Service": done, "GRPCAction.Mode": refused,
	"HTTPGetAction.Path": done, "HTTPGetAction.Port": done, "HTTPGetAction.Host": done, "HTTPGetAction.Scheme": done, "HTTPGetAction.HTTPHeaders": done,
	"HTTPGetAction.Protocol": refused, "HTTPHeader.Name": done, "HTTPHeader.Value": done,

	"SecurityContext.Capabilities": done, "SecurityContext.Privileged": done, "SecurityContext.SELinuxOptions": refused, "SecurityContext.WindowsOptions": masters,
	"SecurityContext.RunAsUser": done, "SecurityContext.RunAsGroup": done, "SecurityContext.RunAsNonRoot": done, "SecurityContext.ReadOnlyRootFilesystem": done,
	"SecurityContext.AllowPrivilegeEscalation": done, "SecurityContext.ProcMount": done, "SecurityContext.SeccompProfile": done,
	"SecurityContext.AppArmorProfile": done, "Capabilities.Add": done, "Capabilities.Drop": done,

	"HostAlias.IP": done, "HostAlias.Hostnames": done, "PodDNSConfig.Nameservers": done, "PodDNSConfig.Searches": done, "PodDNSConfig.Options": done,
	"PodDNSConfigOption.Name": done, "PodDNSConfigOption.Value": done, "PodReadinessGate.ConditionType": done, "PodOS.Name": done,

	"Volume.Name": done, "Volume.VolumeSource": done, "VolumeSource.HostPath": done, "VolumeSource.EmptyDir": done, "VolumeSource.Secret": done,
	"VolumeSource.DownwardAPI": done, "VolumeSource.ConfigMap": done, "VolumeSource.Projected": done,
	"VolumeSource.GCEPersistentDisk": unmade, "VolumeSource.AWSElasticBlockStore": unmade, "VolumeSource.GitRepo": unmade, "VolumeSource.NFS": done,
	"VolumeSource.ISCSI": unmade, "VolumeSource.Glusterfs": unmade, "VolumeSource.PersistentVolumeClaim": done, "VolumeSource.RBD": unmade,
	"VolumeSource.FlexVolume": unmade, "VolumeSource.Cinder": unmade, "VolumeSource.CephFS": unmade, "VolumeSource.Flocker": unmade, "VolumeSource.FC": unmade,
	"VolumeSource.AzureFile": unmade, "VolumeSource.VsphereVolume": unmade, "VolumeSource.Quobyte": unmade, "VolumeSource.AzureDisk": unmade,
	"VolumeSource.PhotonPersistentDisk": unmade, "VolumeSource.PortworxVolume": unmade, "VolumeSource.ScaleIO": unmade, "VolumeSource.StorageOS": unmade,
	"VolumeSource.CSI": done, "CSIVolumeSource.Driver": done, "CSIVolumeSource.ReadOnly": done, "CSIVolumeSource.FSType": done, "CSIVolumeSource.VolumeAttributes": done, "CSIVolumeSource.NodePublishSecretRef": done,
	"VolumeSource.Ephemeral": done, "VolumeSource.Image": done, "ImageVolumeSource.Reference": done, "ImageVolumeSource.PullPolicy": done,
	"PersistentVolumeClaimVolumeSource.ClaimName": done, "PersistentVolumeClaimVolumeSource.ReadOnly": done,
	"NFSVolumeSource.Server": done, "NFSVolumeSource.Path": done, "NFSVolumeSource.ReadOnly": done,
	"EphemeralVolumeSource.VolumeClaimTemplate": masters, // the controller makes the claim
	"HostPathVolumeSource.Path":                 done, "HostPathVolumeSource.Type": done,
	"EmptyDirVolumeSource.Medium": done, "EmptyDirVolumeSource.SizeLimit": done, "EmptyDirVolumeSource.Mode": unmade,
	"SecretVolumeSource.SecretName": done, "SecretVolumeSource.Items": done, "SecretVolumeSource.DefaultMode": done, "SecretVolumeSource.Optional": done,
	"SecretVolumeSource.DefaultUser":             unmade,
	"ConfigMapVolumeSource.LocalObjectReference": done, "ConfigMapVolumeSource.Items": done, "ConfigMapVolumeSource.DefaultMode": done,
	"ConfigMapVolumeSource.Optional": done, "ConfigMapVolumeSource.DefaultUser": unmade,
	"DownwardAPIVolumeSource.Items": done, "DownwardAPIVolumeSource.DefaultMode": done, "DownwardAPIVolumeSource.DefaultUser": unmade,
	"DownwardAPIVolumeFile.Path": done, "DownwardAPIVolumeFile.FieldRef": done, "DownwardAPIVolumeFile.ResourceFieldRef": done, "DownwardAPIVolumeFile.Mode": done,
	"DownwardAPIVolumeFile.User": unmade, "KeyToPath.Key": done, "KeyToPath.Path": done, "KeyToPath.Mode": done, "KeyToPath.User": unmade,
	"ProjectedVolumeSource.Sources": done, "ProjectedVolumeSource.DefaultMode": done, "ProjectedVolumeSource.DefaultUser": unmade,
	"VolumeProjection.Secret": done, "VolumeProjection.DownwardAPI": done, "VolumeProjection.ConfigMap": done, "VolumeProjection.ServiceAccountToken": done,
	"VolumeProjection.ClusterTrustBundle": done, "ClusterTrustBundleProjection.Name": done, "ClusterTrustBundleProjection.SignerName": done,
	"ClusterTrustBundleProjection.LabelSelector": done, "ClusterTrustBundleProjection.Optional": done, "ClusterTrustBundleProjection.Path": done,
	"ClusterTrustBundleProjection.User": unmade, "VolumeProjection.PodCertificate": done, "PodCertificateProjection.SignerName": done, "PodCertificateProjection.KeyType": done,
	"PodCertificateProjection.MaxExpirationSeconds": done, "PodCertificateProjection.CredentialBundlePath": done, "PodCertificateProjection.KeyPath": done,
	"PodCertificateProjection.CertificateChainPath": done, "PodCertificateProjection.UserAnnotations": done, "PodCertificateProjection.User": unmade,
	"SecretProjection.LocalObjectReference": done, "SecretProjection.Items": done, "SecretProjection.Optional": done,
	"ConfigMapProjection.LocalObjectReference": done, "ConfigMapProjection.Items": done, "ConfigMapProjection.Optional": done,
	"DownwardAPIProjection.Items": done, "ServiceAccountTokenProjection.Audience": done, "ServiceAccountTokenProjection.ExpirationSeconds": done,
	"ServiceAccountTokenProjection.Path": done, "ServiceAccountTokenProjection.User": unmade,
}

// opaque are types that are values to the node, or are checked as a whole.
var opaque = map[reflect.Type]bool{
	reflect.TypeFor[corev1.Affinity](): true, reflect.TypeFor[corev1.Toleration](): true, reflect.TypeFor[corev1.TopologySpreadConstraint](): true,
	reflect.TypeFor[resource.Quantity](): true, reflect.TypeFor[intstr.IntOrString](): true, reflect.TypeFor[metav1.LabelSelector](): true,
}

// walk calls visit for every field below PodSpec, with its key and the steps to it. It does not descend into fields that the node
// rejects or ignores.
func walk(t reflect.Type, steps []int, visit func(key string, steps []int)) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || opaque[t] {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		owner := t.Name()
		if owner == "EphemeralContainerCommon" {
			owner = "Container" // it must have the same fields: it is converted
		}
		key, here := owner+"."+f.Name, append(slices.Clone(steps), i)
		visit(key, here)
		if fates[key] == done {
			walk(f.Type, here, visit)
		}
	}
}

// withField returns a pod in which exactly one field is set.
func withField(steps []int) *corev1.Pod {
	pod := &corev1.Pod{}
	v := reflect.ValueOf(&pod.Spec).Elem()
	into := func(v reflect.Value) reflect.Value {
		for v.Kind() == reflect.Pointer || v.Kind() == reflect.Slice {
			if v.Kind() == reflect.Pointer {
				v.Set(reflect.New(v.Type().Elem()))
				v = v.Elem()
			} else {
				v.Set(reflect.MakeSlice(v.Type(), 1, 1))
				v = v.Index(0)
			}
		}
		return v
	}
	for _, i := range steps {
		v = into(v.Field(i))
	}
	switch v.Kind() {
	case reflect.String:
		value := "x"
		switch v.Type() {
		case reflect.TypeFor[corev1.ProcMountType]():
			value = string(corev1.UnmaskedProcMount)
		}
		v.SetString(value)
	case reflect.Int32, reflect.Int64:
		v.SetInt(1)
	}
	return pod
}

func TestEveryFieldOfAPodIsKnown(t *testing.T) {
	rt := fake.New()
	rt.SetFeatures(runtime.Features{SELinux: true})
	m := New(Config{Runtime: rt})
	volumes := volume.New(volume.Config{RootDir: t.TempDir(), Objects: &node{configs: map[string]*corev1.ConfigMap{"": {}}}})
	seen := map[string]bool{}
	walk(reflect.TypeFor[corev1.PodSpec](), nil, func(key string, steps []int) {
		seen[key] = true
		pod := withField(steps)
		switch fates[key] {
		case done, masters:
		case refused:
			if r := m.Admit(pod); r == nil || r.Reason != reasonUnsupported || r.Message == "" {
				t.Errorf("%s is to be refused: %+v", key, r)
			}
		case unmade:
			pod.UID, pod.Namespace = "uid", "ns"
			if _, err := volumes.Setup(context.Background(), pod, "", nil); !errors.Is(err, volume.ErrUnsupported) {
				t.Errorf("%s is to be refused when it is mounted: %v", key, err)
			}
		default:
			t.Errorf("%s is a field that nobody decided about: is it done, or refused?", key)
		}
	})
	for key := range fates {
		if !seen[key] {
			t.Errorf("%s is no field of a pod", key)
		}
	}
}

func TestWhatAPodAsksForIsRefusedWithAReason(t *testing.T) {
	yes, no := true, false
	name := func(s string) *string { return &s }
	context := func(c corev1.SecurityContext) corev1.PodSpec {
		return corev1.PodSpec{Containers: []corev1.Container{{Name: "c", SecurityContext: &c}}}
	}
	unmasked, enabled := corev1.UnmaskedProcMount, corev1.RecursiveReadOnlyEnabled
	mounts := corev1.PodSpec{Containers: []corev1.Container{{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", ReadOnly: true, RecursiveReadOnly: &enabled}}}}}
	confined := &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	all := runtime.Features{RecursiveReadOnly: true, AppArmor: true, SELinux: true}
	const missing = "Pod requires node features that are not available: "
	for _, c := range []struct {
		name     string
		spec     corev1.PodSpec
		features runtime.Features
		want     *fit.Refusal
	}{
		{"nothing", corev1.PodSpec{}, runtime.Features{}, nil},
		{"the host's users", corev1.PodSpec{HostUsers: &yes}, runtime.Features{}, nil},
		{"users of its own", corev1.PodSpec{HostUsers: &no}, all, &fit.Refusal{Reason: "PodFeatureUnsupported", Message: missing + "hostUsers: false (the node has no ids for them)"}},
		{"users that the kernel cannot map", corev1.PodSpec{HostUsers: &no}, runtime.Features{NoUserNamespaces: "an old kernel"}, &fit.Refusal{Reason: "PodFeatureUnsupported", Message: missing + "hostUsers: false (an old kernel)"}},
		{"an unmasked /proc", context(corev1.SecurityContext{ProcMount: &unmasked}), all, &fit.Refusal{Reason: "PodFeatureUnsupported", Message: missing + "containers[c].securityContext.procMount: Unmasked"}},
		{"a runtime class", corev1.PodSpec{RuntimeClassName: name("gvisor")}, all, nil},
		{"two things", corev1.PodSpec{HostUsers: &no, RuntimeClassName: name("gvisor")}, all, &fit.Refusal{Reason: "PodFeatureUnsupported", Message: missing + "hostUsers: false (the node has no ids for them)"}},
		{"devices", corev1.PodSpec{ResourceClaims: []corev1.PodResourceClaim{{Name: "gpu"}},
			Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "gpu"}}}}}}, all,
			&fit.Refusal{Reason: "PodFeatureUnsupported", Message: missing + "resourceClaims, containers[c].resources.claims"}},
		{"devices in a simulation", corev1.PodSpec{ResourceClaims: []corev1.PodResourceClaim{{Name: "gpu"}}}, runtime.Features{Devices: true}, nil},
		{"recursive read-only mounts", mounts, runtime.Features{}, &fit.Refusal{Reason: "PodFeatureUnsupported", Message: missing + "containers[c].volumeMounts[v].recursiveReadOnly"}},
		{"recursive read-only mounts where they work", mounts, all, nil},
		{"AppArmor", context(corev1.SecurityContext{AppArmorProfile: confined}), runtime.Features{}, &fit.Refusal{Reason: "AppArmor", Message: "Cannot enforce AppArmor: AppArmor is not enabled on the host"}},
		{"AppArmor for the pod", corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{AppArmorProfile: confined}}, runtime.Features{}, &fit.Refusal{Reason: "AppArmor", Message: "Cannot enforce AppArmor: AppArmor is not enabled on the host"}},
		{"AppArmor where it works", context(corev1.SecurityContext{AppArmorProfile: confined}), all, nil},
		{"SELinux labels where nothing reads them", context(corev1.SecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Type: "spc_t"}}), runtime.Features{}, nil},
		{"SELinux labels that containers get", context(corev1.SecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Type: "spc_t"}}), runtime.Features{SELinux: true, SELinuxLabels: true}, nil},
		{"SELinux labels that they do not get", context(corev1.SecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Type: "spc_t"}}), runtime.Features{SELinux: true},
			&fit.Refusal{Reason: "PodFeatureUnsupported", Message: missing + "containers[c].securityContext.seLinuxOptions (the agent runs without --selinux)"}},
		{"Windows", corev1.PodSpec{OS: &corev1.PodOS{Name: corev1.Windows}}, all, &fit.Refusal{Reason: "PodOSNotSupported", Message: "Failed to admit pod as the OS field doesn't match node OS"}},
		{"an ephemeral container's", corev1.PodSpec{EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", SecurityContext: &corev1.SecurityContext{ProcMount: &unmasked}}}}}, all,
			&fit.Refusal{Reason: "PodFeatureUnsupported", Message: missing + "ephemeralContainers[e].securityContext.procMount: Unmasked"}},
	} {
		rt := fake.New()
		rt.SetFeatures(c.features)
		got := New(Config{Runtime: rt}).Admit(&corev1.Pod{Spec: c.spec})
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

type someUsers struct{}

func (someUsers) Of(string) (userns.Range, error) {
	return userns.Range{First: 65536, Length: 65536}, nil
}
func (someUsers) Release(string) {}

// TestWhatAPodWithItsOwnUsersMayHave: a whole /proc, but no mounts that the kernel cannot map.
func TestWhatAPodWithItsOwnUsersMayHave(t *testing.T) {
	no, unmasked, both, none := false, corev1.UnmaskedProcMount, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone
	for name, c := range map[string]struct {
		spec corev1.PodSpec
		want string
	}{
		"an unmasked /proc": {corev1.PodSpec{Containers: []corev1.Container{{Name: "c", SecurityContext: &corev1.SecurityContext{ProcMount: &unmasked}}}}, ""},
		"a private mount":   {corev1.PodSpec{Containers: []corev1.Container{{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPropagation: &none}}}}}, ""},
		"propagation": {corev1.PodSpec{Containers: []corev1.Container{{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPropagation: &both}}}}},
			"containers[c].volumeMounts[v].mountPropagation with hostUsers: false"},
		"an image's files": {corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{}}}}}, ""},
	} {
		c.spec.HostUsers = &no
		r := New(Config{Runtime: fake.New(), Users: someUsers{}}).Admit(&corev1.Pod{Spec: c.spec})
		if (r == nil) != (c.want == "") || r != nil && r.Message != "Pod requires node features that are not available: "+c.want {
			t.Errorf("%s: %+v, want %q", name, r, c.want)
		}
	}
}

// A pod whose extended resources were allocated as devices says so in its status.
func TestExtendedResourcesThatAreDevicesAreRefused(t *testing.T) {
	pod := &corev1.Pod{Status: corev1.PodStatus{ExtendedResourceClaimStatus: &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "c"}}}
	got := New(Config{Runtime: fake.New()}).Admit(pod)
	if got == nil || got.Reason != "PodFeatureUnsupported" || got.Message != "Pod requires node features that are not available: extended resources that are devices" {
		t.Errorf("%+v", got)
	}
	if got := New(Config{Runtime: fake.NewHollow(0)}).Admit(pod); got != nil {
		t.Errorf("a simulated node refuses it: %+v", got)
	}
}

func TestSysctls(t *testing.T) {
	for _, c := range []struct {
		name    string
		hostNet bool
		hostIPC bool
		allowed []string
		want    string // of the message; "" when it is admitted
	}{
		{name: "net.ipv4.tcp_syncookies"},
		{name: "net/ipv4/tcp_syncookies"},
		{name: "kernel.shm_rmid_forced"},
		{name: "net.ipv4.tcp_syncookies", hostNet: true, want: `"net.ipv4.tcp_syncookies" not allowed with host Net enabled`},
		{name: "kernel.shm_rmid_forced", hostIPC: true, want: `"kernel.shm_rmid_forced" not allowed with host IPC enabled`},
		{name: "kernel.core_pattern", want: `"kernel.core_pattern" not allowlisted`},
		{name: "vm.laptop_mode", want: `"vm.laptop_mode" not allowlisted`},
		{name: "kernel/core_pattern", want: `"kernel.core_pattern" not allowlisted`},
		{name: "kernel.core_pattern", allowed: []string{"kernel.*"}, want: `"kernel.core_pattern" not allowlisted`}, // the host's, whoever allows it
		{name: "net.core.somaxconn", want: `"net.core.somaxconn" not allowlisted`},
		{name: "net.core.somaxconn", allowed: []string{"net.core.*"}},
		{name: "net.core.somaxconn", allowed: []string{"net.core.somaxconn"}},
		{name: "net.core.somaxconn", allowed: []string{"net.core.*"}, hostNet: true, want: `"net.core.somaxconn" not allowed with host Net enabled`},
		{name: "kernel.msgmax", allowed: []string{"kernel.msg*"}},
		{name: "kernel.domainname", allowed: []string{"kernel.domainname"}, hostNet: true, want: `"kernel.domainname" not allowed with host UTS enabled`},
		{name: "user.max_user_namespaces", allowed: []string{"user.*"}, want: `"user.max_user_namespaces" not allowed with host User enabled`},
	} {
		m := New(Config{Runtime: fake.New(), AllowedUnsafeSysctls: c.allowed})
		pod := &corev1.Pod{Spec: corev1.PodSpec{HostNetwork: c.hostNet, HostIPC: c.hostIPC, SecurityContext: &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: c.name, Value: "1"}}}}}
		var want *fit.Refusal
		if c.want != "" {
			want = &fit.Refusal{Reason: "SysctlForbidden", Message: "forbidden sysctl: " + c.want}
		}
		if got := m.Admit(pod); !reflect.DeepEqual(got, want) {
			t.Errorf("%+v: %+v", c, got)
		}
	}
	for pattern, ok := range map[string]bool{"net.core.*": true, "net.core.somaxconn": true, "kernel.msg*": true, "kernel.*": false, "vm.swappiness": false, "*": false, "net.*.x": false, "": false} {
		if err := CheckSysctlPatterns([]string{pattern}); (err == nil) != ok {
			t.Errorf("pattern %q: %v", pattern, err)
		}
	}
}

func TestPodsThatDoNotFitAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"disk": "ssd"}}}
		n.node.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoExecute}, {Key: "other", Effect: corev1.TaintEffectNoSchedule}}
		n.node.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("3")}
		tolerant := func(name string, change func(p *corev1.Pod)) *corev1.Pod {
			p := pod(name, corev1.RestartPolicyAlways, trap)
			p.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
			if change != nil {
				change(p)
			}
			return p
		}
		requests := func(name corev1.ResourceName, q string) func(*corev1.Pod) {
			return func(p *corev1.Pod) {
				p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{name: resource.MustParse(q)}
			}
		}
		port := func(ip string) func(*corev1.Pod) {
			return func(p *corev1.Pod) {
				p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80, ContainerPort: 80, HostIP: ip, Protocol: corev1.ProtocolTCP}}
			}
		}
		first := tolerant("first", func(p *corev1.Pod) { requests("cpu", "1500m")(p); port("192.0.2.1")(p) })
		n.m.Update(first)
		n.running(first, "c1")
		for i, c := range []struct {
			change          func(*corev1.Pod)
			reason, message string
		}{
			{requests("cpu", "600m"), "OutOfcpu", "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000"},
			{requests("memory", "2Gi"), "OutOfmemory", "Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824"},
			{func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"no": "such"} }, "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
			{port(""), "NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"},
			{func(p *corev1.Pod) { p.Spec.Tolerations = nil }, "TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"},
		} {
			p := tolerant(fmt.Sprintf("p%d", i), c.change)
			n.m.Update(p)
			s := n.status(p)
			if s.Phase != corev1.PodFailed || s.Reason != c.reason || s.Message != "Pod was rejected: "+c.message || len(s.ContainerStatuses) != 0 || !n.hasEnded(p) {
				t.Errorf("want %s: %+v", c.reason, s)
			}
			if said := n.said(c.reason); len(said) != 1 || said[0] != c.message {
				t.Errorf("said %q", said)
			}
			n.m.Remove(p.UID)
		}
		// A rejected pod takes no resources from the next one, and the resources of a terminated pod are free again.
		fits := tolerant("fits", func(p *corev1.Pod) {
			requests("cpu", "500m")(p)
			port("192.0.2.2")(p)
			p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
		})
		n.m.Update(fits)
		n.running(fits, "c1")
		n.m.Update(deleting(first, 30))
		n.status(first)
		next := tolerant("next", func(p *corev1.Pod) { requests("cpu", "1500m")(p); port("192.0.2.1")(p) })
		n.m.Update(next)
		n.running(next, "c1")
		// After a restart of the agent, running pods are not checked again, but count.
		n.node.Labels = nil
		n.stop()
		n.start()
		for _, p := range []*corev1.Pod{fits, next} {
			n.m.Update(p)
			n.running(p, "c1")
		}
		late := tolerant("late", requests("cpu", "1"))
		n.m.Update(late)
		if s := n.status(late); s.Reason != "OutOfcpu" {
			t.Errorf("after a restart: %+v", s)
		}
	})
}

// TestRefusedPodsDoNotGoRound: a controller creates another pod for each one that the node rejects.
func TestRefusedPodsDoNotGoRound(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		yes, no := true, false
		made := 0
		next := func() *corev1.Pod {
			made++
			p := pod(fmt.Sprintf("p%d", made), corev1.RestartPolicyAlways, trap)
			p.Spec.HostUsers = &no
			p.OwnerReferences = []metav1.OwnerReference{{UID: "set", Controller: &yes}}
			n.m.Update(p)
			return p
		}
		p, began := next(), time.Now()
		var ends []time.Duration
		for time.Since(began) < time.Hour {
			if n.status(p).Phase == corev1.PodFailed {
				ends = append(ends, time.Since(began))
				p = next()
			}
			time.Sleep(time.Second)
		}
		if len(ends) < 5 || len(ends) > 20 || ends[0] > time.Second {
			t.Errorf("in an hour %d pods were refused: %v", len(ends), ends)
		}
		if said := len(n.said("PodFeatureUnsupported")); said != made {
			t.Errorf("%d pods, %d events", made, said)
		}
		// A pod without an owner is rejected at once.
		changed := p.DeepCopy()
		changed.OwnerReferences, changed.UID, changed.Name = nil, "uid-own", "own"
		n.m.Update(changed)
		if s := n.status(changed); s.Phase != corev1.PodFailed {
			t.Errorf("a pod without an owner: %+v", s)
		}
	})
}

// TestEndedPodsHoldNothing: a restarted agent gets pods that terminated long ago, in any order with new ones.
func TestEndedPodsHoldNothing(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
		n.node.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1")}
		ended := pod("ended", corev1.RestartPolicyNever, "true")
		n.m.Update(ended)
		ended = ended.DeepCopy()
		if ended.Status = n.status(ended); ended.Status.Phase != corev1.PodSucceeded {
			t.Fatalf("%+v", ended.Status)
		}
		n.stop()
		release := n.rt.Block("ListContainers") // nobody works on the ended one yet
		defer release()
		n.start()
		n.m.Update(ended)
		fresh := pod("fresh", corev1.RestartPolicyAlways, trap)
		n.m.Update(fresh)
		if s := n.status(fresh); s.Phase == corev1.PodFailed {
			t.Errorf("%s: %s", s.Reason, s.Message)
		}
		release()
		n.running(fresh, "c1")
	})
}

func TestARefusalIsReported(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, trap)
		p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.core_pattern", Value: "|/evil"}}}
		n.m.Update(p)
		s := n.status(p)
		if s.Phase != corev1.PodFailed || s.Reason != "SysctlForbidden" || s.Message != `Pod was rejected: forbidden sysctl: "kernel.core_pattern" not allowlisted` || !n.hasEnded(p) {
			t.Errorf("status %+v", s)
		}
		for _, call := range n.rt.Calls() {
			if strings.HasPrefix(call, "EnsureSandbox") || strings.HasPrefix(call, "CreateContainer") {
				t.Errorf("of a pod that was refused the runtime was asked: %s", call)
			}
		}
	})
}
