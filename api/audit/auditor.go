package audit

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/kontiki/kontiki/internal/logline"
)

// The modes of writing, as in upstream's --audit-log-mode.
const (
	// ModeBlocking writes an event before its request continues, unless the disk is slower than patience.
	ModeBlocking = "blocking"
	// ModeBatch writes events in the background.
	ModeBatch = "batch"
)

// StandardOutput is the log path that means the standard output.
const StandardOutput = "-"

// Config has what an Auditor is made of.
type Config struct {
	// PolicyFile says what is recorded. Without one, nothing is.
	PolicyFile string
	// LogPath is the file to which events are written, as one line of JSON each, or StandardOutput.
	LogPath  string
	Rotation Rotation
	Mode     string
	Log      *slog.Logger
}

// Auditor records requests. It is safe for concurrent use.
type Auditor struct {
	policy  Policy
	writer  *writer
	now     func() time.Time
	buffers sync.Pool // of *[]byte
	events  prometheus.Counter
	errors  *prometheus.CounterVec
	levels  *prometheus.CounterVec
}

// New creates an Auditor; it returns nil without a policy. Close it when no request is in progress any more.
func New(c Config) (*Auditor, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	log := c.Log.With("part", "audit")
	switch {
	case c.PolicyFile == "" && c.LogPath == "":
		return nil, nil
	case c.PolicyFile == "":
		log.Warn("no audit policy file provided, no events will be recorded", "path", c.LogPath)
		return nil, nil
	case c.LogPath == "":
		return nil, errors.New("--audit-log-path: must be given with --audit-policy-file; - is the standard output")
	case c.Mode != ModeBlocking && c.Mode != ModeBatch:
		return nil, fmt.Errorf("--audit-log-mode: invalid audit log mode %s, allowed modes are %q", c.Mode, strings.Join([]string{ModeBatch, ModeBlocking}, ","))
	}
	policy, err := LoadPolicy(c.PolicyFile)
	if err != nil {
		return nil, fmt.Errorf("--audit-policy-file: %w", err)
	}
	var out io.Writer = struct{ io.Writer }{os.Stdout} // is not closed
	if c.LogPath != StandardOutput {
		report := func(err error) {
			log.Warn("the audit log's files could not be rotated or pruned", "path", c.LogPath, "error", err)
		}
		if out, err = openFile(c.LogPath, c.Rotation, time.Now, report); err != nil {
			return nil, fmt.Errorf("--audit-log-path: %w", err)
		}
	}
	return newAuditor(policy, out, c.Mode == ModeBlocking, log), nil
}

func newAuditor(policy Policy, out io.Writer, blocking bool, log *slog.Logger) *Auditor {
	a := &Auditor{
		policy: policy, now: time.Now,
		events: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "apiserver_audit_event_total", Help: "Counter of audit events generated and sent to the audit backend.",
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_audit_error_total", Help: "Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.",
		}, []string{"plugin"}),
		levels: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_audit_level_total", Help: "Counter of policy levels for audit events (1 per request).",
		}, []string{"level"}),
	}
	a.buffers.New = func() any { return new([]byte) }
	a.writer = newWriter(out, blocking, a.lost, log)
	a.lost(0) // so that the metric exists from the beginning
	return a
}

func (a *Auditor) lost(events int) { a.errors.WithLabelValues("log").Add(float64(events)) }

// Describe implements prometheus.Collector.
func (a *Auditor) Describe(to chan<- *prometheus.Desc) {
	a.events.Describe(to)
	a.errors.Describe(to)
	a.levels.Describe(to)
}

// Collect implements prometheus.Collector.
func (a *Auditor) Collect(to chan<- prometheus.Metric) {
	a.events.Collect(to)
	a.errors.Collect(to)
	a.levels.Collect(to)
}

// Close waits until all recorded events are written, with a time limit, and closes the log.
func (a *Auditor) Close() error {
	if a == nil {
		return nil
	}
	return a.writer.close()
}

// maxID limits the length in bytes of an ID that a client sends.
const maxID = 64

// ID returns the ID of a request: the value of its Audit-ID header, or a new one. It also sets it in the response's headers.
func (a *Auditor) ID(w http.ResponseWriter, r *http.Request) types.UID {
	if a == nil {
		return ""
	}
	id := r.Header.Get(audit.HeaderAuditID)
	if id == "" {
		id = uuid.NewString()
	}
	id = id[:min(len(id), maxID)]
	w.Header().Set(audit.HeaderAuditID, id)
	return types.UID(id)
}

// write writes an event to the log.
func (a *Auditor) write(e *auditv1.Event) {
	a.events.Inc()
	buffer := a.buffers.Get().(*[]byte)
	line, err := appendEvent((*buffer)[:0], e)
	if err != nil {
		a.lost(1)
		a.writer.log.Error("an audit event cannot be encoded", "uri", logline.Cut(e.RequestURI), "error", err)
		return
	}
	a.writer.append(line)
	if cap(line) <= keepBuffer {
		*buffer = line
		a.buffers.Put(buffer)
	}
}
