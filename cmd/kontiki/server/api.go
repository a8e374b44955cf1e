package server

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"github.com/kontiki/kontiki/api/admission"
	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/flow"
	"github.com/kontiki/kontiki/api/objects"
)

// apiOptions are kube-apiserver's settings for limits of requests and for the audit log, under the same names.
type apiOptions struct {
	auditPolicy, auditPath, auditFormat, auditMode string
	auditMaxAge, auditMaxBackups, auditMaxSize     int
	maxInflight, maxMutatingInflight               int
	requestTimeout                                 time.Duration
	allowPrivileged, bootstrapTokens, profiling    bool
	enableAdmission, disableAdmission              []string
	admissionConfig, encryptionConfig              string

	// The objects made from these settings; nil records and limits nothing.
	auditor *audit.Auditor
	limits  *flow.Control
}

const auditFormatJSON = "json"

func (o *apiOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.auditPolicy, "audit-policy-file", "", "path to the file that defines the audit policy configuration; without it nothing is recorded")
	f.StringVar(&o.auditPath, "audit-log-path", "", "the file to which requests are recorded as the policy says; - means standard output")
	f.IntVar(&o.auditMaxAge, "audit-log-maxage", 366, "for how many days rotated audit log files are kept, by the time in their names; 0 means forever")
	f.IntVar(&o.auditMaxBackups, "audit-log-maxbackup", 100, "how many rotated audit log files are kept; 0 means all")
	f.IntVar(&o.auditMaxSize, "audit-log-maxsize", 100, "the size in megabytes at which the audit log file is rotated; 0 means never")
	f.StringVar(&o.auditFormat, "audit-log-format", auditFormatJSON, "json: one event of audit.k8s.io/v1 per line")
	f.StringVar(&o.auditMode, "audit-log-mode", audit.ModeBlocking, "blocking: a request continues when its event is written, or after a few seconds; batch: events are written in the background")
	f.IntVar(&o.maxInflight, "max-requests-inflight", flow.DefaultReadOnly, "this and --max-mutating-requests-inflight are summed to determine the server's total concurrency limit, which must be positive")
	f.IntVar(&o.maxMutatingInflight, "max-mutating-requests-inflight", flow.DefaultMutating, "this and --max-requests-inflight are summed to determine the server's total concurrency limit, which must be positive")
	f.DurationVar(&o.requestTimeout, "request-timeout", objects.DefaultRequestTimeout, "how long a request may take, unless it is long-running, such as a watch")
	f.StringSliceVar(&o.enableAdmission, "enable-admission-plugins", nil, "admission plugins that should be enabled in addition to default enabled ones, by upstream's names: AlwaysPullImages, DenyServiceExternalIPs, EventRateLimit, ExtendedResourceToleration, OwnerReferencesPermissionEnforcement; the same on all masters")
	f.StringSliceVar(&o.disableAdmission, "disable-admission-plugins", nil, "admission plugins that should be disabled although they are in the default enabled plugins list; the same on all masters")
	f.StringVar(&o.admissionConfig, "admission-control-config-file", "", "file with an AdmissionConfiguration: of PodSecurity, EventRateLimit, ResourceQuota, and of webhooks and policies in files (staticManifestsDir)")
	f.StringVar(&o.encryptionConfig, "encryption-provider-config", "", "file with an EncryptionConfiguration: the KMS v2 plugin that holds the key of Secrets; all masters need the plugin")
	f.BoolVar(&o.bootstrapTokens, "enable-bootstrap-token-auth", false, "accept the tokens of Secrets of type bootstrap.kubernetes.io/token as credentials")
	f.BoolVar(&o.allowPrivileged, "allow-privileged", true, "allow privileged containers; the same on all masters")
	f.BoolVar(&o.profiling, "profiling", true, "serve profiles at "+profilePath+", to those who may get that path")
}

// admission returns how the API admits writes.
func (o *apiOptions) admission() (c admission.Config, err error) {
	c = admission.Config{Enable: o.enableAdmission, Disable: o.disableAdmission, ReadFile: o.readAdmission}
	if o.admissionConfig != "" {
		if c.Configuration, err = os.ReadFile(o.admissionConfig); err != nil {
			err = fmt.Errorf("--admission-control-config-file: %w", err)
		}
	}
	return c, err
}

// readAdmission reads a file that the admission configuration names, by a path that is relative to it.
func (o *apiOptions) readAdmission(path string) ([]byte, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(o.admissionConfig), path)
	}
	return os.ReadFile(path)
}

func (o *apiOptions) check() error {
	for _, f := range []struct {
		name  string
		value int
	}{
		{"audit-log-maxage", o.auditMaxAge}, {"audit-log-maxbackup", o.auditMaxBackups}, {"audit-log-maxsize", o.auditMaxSize},
		{"max-requests-inflight", o.maxInflight}, {"max-mutating-requests-inflight", o.maxMutatingInflight},
	} {
		if f.value < 0 {
			return fmt.Errorf("--%s %d can't be a negative number", f.name, f.value)
		}
	}
	if o.maxInflight+o.maxMutatingInflight == 0 {
		return errors.New("--max-requests-inflight and --max-mutating-requests-inflight: their sum must be positive")
	}
	if o.requestTimeout <= 0 {
		return fmt.Errorf("--request-timeout %s must be positive", o.requestTimeout)
	}
	if o.auditFormat != auditFormatJSON {
		return fmt.Errorf("--audit-log-format: invalid audit log format %s, allowed formats are %q", o.auditFormat, auditFormatJSON)
	}
	_, err := o.kmsConfigs()
	return err
}

// open opens the audit log, if one is configured, and registers its metrics and those of the limits.
func (o *apiOptions) open(log *slog.Logger) error {
	if err := o.check(); err != nil {
		return err
	}
	var err error
	if o.auditor, err = audit.New(audit.Config{
		PolicyFile: o.auditPolicy, LogPath: o.auditPath, Mode: o.auditMode, Log: log,
		Rotation: audit.Rotation{MaxSize: int64(o.auditMaxSize) << 20, MaxAge: time.Duration(o.auditMaxAge) * 24 * time.Hour, MaxBackups: o.auditMaxBackups},
	}); err != nil {
		return err
	}
	o.limits = flow.New(o.maxInflight + o.maxMutatingInflight)
	if o.auditor != nil {
		if err := prometheus.Register(o.auditor); err != nil {
			return err
		}
	}
	return prometheus.Register(o.limits)
}
