package overview

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kontiki/kontiki/internal/bytesize"
)

// Print writes the report for people.
func (r *Report) Print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	leader := "no leader"
	if r.Masters.Leader != "" {
		leader = r.Masters.Leader + " leads"
	}
	tolerated := "writes have stopped"
	switch n := r.Masters.Tolerated; {
	case n == 1:
		tolerated = "1 more may fail"
	case n >= 0:
		tolerated = fmt.Sprintf("%d more may fail", n)
	}
	fmt.Fprintf(w, "Masters\t%d of %d healthy, %s, %s\n", r.Masters.Healthy, r.Masters.Total, leader, tolerated)
	fmt.Fprintf(w, "Workers\t%d of %d ready%s\n", r.Workers.Ready, r.Workers.Total, also(r.Workers.Cordoned, "cordoned"))
	p := r.Pods
	fmt.Fprintf(w, "Pods\t%d ready%s%s%s%s%s\n", p.Ready, also(p.NotReady, "running but not ready"), also(p.Pending, "pending"), also(p.Ending, "ending"),
		also(p.Failed, "failed"), also(p.Finished, "finished"))
	fmt.Fprintf(w, "Workloads\t%s\n", r.Workloads.text("have all their pods", "has all its pods"))
	fmt.Fprintf(w, "Claims\t%s\n", r.Claims.text("are bound", "is bound"))
	fmt.Fprintf(w, "Warnings\t%s\n", r.warnings())
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nRESOURCE\tUSED\tREQUESTED\tALLOCATABLE")
	for _, one := range r.Resources {
		used := "-"
		if one.Used != nil {
			used = one.share(*one.Used)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", one.Name, used, one.share(one.Requested), one.text(one.Allocatable))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(r.Attention) == 0 {
		_, err := fmt.Fprintln(out, "\nNothing needs attention.")
		return err
	}
	fmt.Fprintln(out, "\nNeeds attention:")
	for _, line := range r.Attention {
		if _, err := fmt.Fprintln(out, "  -", line); err != nil {
			return err
		}
	}
	return nil
}

func also(n int, what string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d %s", n, what)
}

func (o Of) text(many, one string) string {
	switch {
	case o.Total == 0:
		return "none"
	case o.Total == 1 && o.Complete == 1:
		return "1 " + one
	case o.Complete == o.Total:
		return fmt.Sprintf("all %d %s", o.Total, many)
	}
	return fmt.Sprintf("%d of %d %s", o.Complete, o.Total, many)
}

// warnings returns how many warnings there were, and the most frequent reasons.
func (r *Report) warnings() string {
	if len(r.Warnings) == 0 {
		return "none in the last hour"
	}
	var total int64
	for _, n := range r.Warnings {
		total += n
	}
	reasons := slices.SortedFunc(maps.Keys(r.Warnings), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.Warnings[b], r.Warnings[a]), strings.Compare(a, b))
	})
	var most []string
	for _, reason := range reasons[:min(3, len(reasons))] {
		most = append(most, fmt.Sprintf("%s %d", reason, r.Warnings[reason]))
	}
	return fmt.Sprintf("%d in the last hour: %s", total, strings.Join(most, ", "))
}

// share returns a quantity, and how much of what is allocatable it is.
func (r Resource) share(q resource.Quantity) string {
	all := r.Allocatable.AsApproximateFloat64()
	if all == 0 {
		return r.text(q)
	}
	return fmt.Sprintf("%s (%.0f%%)", r.text(q), 100*q.AsApproximateFloat64()/all)
}

func (r Resource) text(q resource.Quantity) string {
	switch r.Name {
	case corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return bytesize.Text(q.AsApproximateFloat64())
	case corev1.ResourceCPU:
		return strconv.FormatFloat(math.Round(100*q.AsApproximateFloat64())/100, 'f', -1, 64)
	}
	return q.String()
}
