package top

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"
)

// measure asks for the usage of the pods or nodes of the list, now and then, until the context ends.
func (f *Feed) measure(ctx context.Context) {
	for {
		usage, err := f.usage(ctx)
		if ctx.Err() != nil {
			return
		}
		f.update(func() {
			f.state.UsageErr = ""
			if err != nil {
				f.state.UsageErr = clean(err.Error(), lineBytes)
				usage = map[string]Usage{} // old figures would look like new ones
			}
			f.state.Usage = usage
		})
		if !sleep(ctx, pollEvery) {
			return
		}
	}
}

type quantities struct{ CPU, Memory string }

func (q quantities) add(to *Usage) {
	if v, err := resource.ParseQuantity(q.CPU); err == nil {
		to.Milli += v.MilliValue()
	}
	if v, err := resource.ParseQuantity(q.Memory); err == nil {
		to.Bytes += v.Value()
	}
}

func (f *Feed) usage(ctx context.Context) (map[string]Usage, error) {
	kind := f.query.Kind
	kind.Group, kind.Version = "metrics.k8s.io", "v1beta1"
	path, err := kind.path(f.query.Namespace, "")
	if err != nil {
		return nil, err
	}
	request := f.client.Get().AbsPath(path).SetHeader("Accept", "application/json")
	if f.query.Labels != "" {
		request = request.Param("labelSelector", f.query.Labels)
	}
	var list struct {
		Items []struct {
			Metadata   struct{ Namespace, Name string }
			Usage      quantities
			Containers []struct{ Usage quantities }
		}
	}
	if err := fetchJSON(ctx, request, pageBytes, &list); err != nil {
		return nil, fmt.Errorf("usage: %w", err)
	}
	out := map[string]Usage{}
	for i := range list.Items {
		if len(out) == maxRows {
			break
		}
		item := &list.Items[i]
		var u Usage
		item.Usage.add(&u)
		for _, c := range item.Containers {
			c.Usage.add(&u)
		}
		out[item.Metadata.Namespace+"/"+item.Metadata.Name] = u
	}
	return out, nil
}

func (u Usage) cpu() string    { return fmt.Sprintf("%dm", u.Milli) }
func (u Usage) memory() string { return fmt.Sprintf("%dMi", u.Bytes>>20) }
