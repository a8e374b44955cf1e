package usage

import (
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/kontiki/kontiki/internal/random"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

const (
	// Period is how often workers report.
	Period = 15 * time.Second
	// Lifetime is how long a report counts: four periods, so that one that is late is not missed.
	Lifetime = time.Minute
)

// Limits of a report.
const (
	maxReport     = 1 << 20 // bytes
	maxPods       = 2048
	maxContainers = 4096
	maxName       = 253
	maxNanocores  = 1e9 * 1e6 // a million processors
	maxBytes      = 1 << 60
	maxWindow     = 10 * time.Minute
)

// Local has the newest report of each worker that has a session with this master. It is safe for concurrent use.
type Local struct {
	instance string
	mu       sync.Mutex
	number   uint64
	reports  map[string]report
	swept    time.Time
}

// report is a worker's newest report.
type report struct {
	number  uint64
	arrived time.Time
	encoded []byte
}

// NewLocal returns a Local without reports.
func NewLocal() *Local { return &Local{instance: random.Hex(8), reports: map[string]report{}} }

// Put takes a worker's report, an encoded UsageReport. Pods for which owns returns false are dropped from it. The error says what is wrong with
// a report that is refused.
func (l *Local) Put(worker string, encoded []byte, owns func(*nodev1.PodUsage) bool) error {
	r, err := decode(encoded)
	if err != nil {
		return err
	}
	kept := r.Pods[:0]
	for _, p := range r.Pods {
		if owns(p) {
			kept = append(kept, p)
		}
	}
	r.Pods = kept
	if encoded, err = proto.Marshal(r); err != nil {
		return err
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.number++
	l.reports[worker] = report{l.number, now, encoded}
	if now.Sub(l.swept) > Period {
		l.swept = now
		dropOld(l.reports, now)
	}
	return nil
}

// dropOld forgets reports that no longer count.
func dropOld(reports map[string]report, now time.Time) {
	for worker, r := range reports {
		if now.Sub(r.arrived) > Lifetime {
			delete(reports, worker)
		}
	}
}

// decode returns a report, or what is wrong with it. An empty message is two bytes, and a hundred times as many decoded: so the messages are
// counted first.
func decode(encoded []byte) (*nodev1.UsageReport, error) {
	if n := len(encoded); n > maxReport {
		return nil, fmt.Errorf("a report of %d bytes is larger than %d", n, maxReport)
	}
	pods, containers := 0, 0
	err := eachMessage(encoded, podsField, func(pod []byte) error {
		if pods++; pods > maxPods {
			return fmt.Errorf("a report has more than %d pods", maxPods)
		}
		return eachMessage(pod, containersField, func([]byte) error {
			if containers++; containers > maxContainers {
				return fmt.Errorf("a report has more than %d containers", maxContainers)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	r := &nodev1.UsageReport{}
	if err := proto.Unmarshal(encoded, r); err != nil {
		return nil, err
	}
	return r, check(r)
}

// The numbers of the fields UsageReport.pods and PodUsage.containers.
const (
	podsField       protowire.Number = 2
	containersField protowire.Number = 4
)

// eachMessage calls visit with each value of a repeated field of messages.
func eachMessage(message []byte, field protowire.Number, visit func([]byte) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
			return protowire.ParseError(n)
		}
		if number == field && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(message)
			if err := visit(value); err != nil {
				return err
			}
		}
		message = message[n:]
	}
	return nil
}

// check says what is wrong with a report.
func check(r *nodev1.UsageReport) error {
	if r.Node == nil {
		return fmt.Errorf("a report has no node")
	}
	if err := checkCompute(r.Node.Compute); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	for _, p := range r.Pods {
		if len(p.Namespace) > maxName || len(p.Name) > maxName || len(p.Uid) > maxName {
			return fmt.Errorf("a pod's name is longer than %d bytes", maxName)
		}
		for _, c := range p.Containers {
			if len(c.Name) > maxName {
				return fmt.Errorf("a container's name is longer than %d bytes", maxName)
			}
			if c.RootfsBytes > maxBytes || c.LogBytes > maxBytes {
				return fmt.Errorf("container %q: the size of its files is out of range", c.Name)
			}
			if err := checkCompute(c.Compute); err != nil {
				return fmt.Errorf("container %q: %w", c.Name, err)
			}
		}
	}
	return nil
}

// checkCompute says which number cannot be.
func checkCompute(c *nodev1.ComputeUsage) error {
	switch {
	case c == nil:
		return fmt.Errorf("compute is missing")
	case c.CpuNanocores > maxNanocores:
		return fmt.Errorf("cpu_nanocores %d is out of range", c.CpuNanocores)
	case c.WindowMs > uint32(maxWindow.Milliseconds()):
		return fmt.Errorf("window_ms %d is out of range", c.WindowMs)
	case c.MemoryBytes > maxBytes || c.MemoryWorkingSetBytes > maxBytes || c.MemoryRssBytes > maxBytes || c.SwapBytes > maxBytes:
		return fmt.Errorf("bytes of memory are out of range")
	}
	return nil
}

// Register registers the service with which other masters read the reports.
func (l *Local) Register(registrar grpc.ServiceRegistrar) {
	clusterv1.RegisterUsageServiceServer(registrar, usageService{local: l})
}

type usageService struct {
	clusterv1.UnimplementedUsageServiceServer
	local *Local
}

// maxMessage is about how many bytes of reports are in a message.
const maxMessage = 512 << 10

// ReadUsage implements UsageService.
func (s usageService) ReadUsage(r *clusterv1.ReadUsageRequest, stream clusterv1.UsageService_ReadUsageServer) error {
	after := r.After
	if r.Instance != s.local.instance {
		after = 0
	}
	workers, number := s.local.after(after)
	message, size := &clusterv1.ReadUsageResponse{Instance: s.local.instance}, 0
	for _, w := range workers {
		if size > 0 && size+len(w.Report) > maxMessage {
			if err := stream.Send(message); err != nil {
				return err
			}
			message, size = &clusterv1.ReadUsageResponse{Instance: s.local.instance}, 0
		}
		message.Workers, size = append(message.Workers, w), size+len(w.Report)
	}
	message.Number = number
	return stream.Send(message)
}

// after returns the reports with a greater number, and the greatest number.
func (l *Local) after(number uint64) (out []*clusterv1.WorkerUsage, newest uint64) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for worker, r := range l.reports {
		if age := now.Sub(r.arrived); r.number > number && age <= Lifetime {
			out = append(out, &clusterv1.WorkerUsage{Name: worker, AgeMs: uint64(age.Milliseconds()), Report: r.encoded})
		}
	}
	return out, l.number
}
