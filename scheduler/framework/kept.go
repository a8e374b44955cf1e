package framework

// mostKept is how many evaluations are kept: as many templates as are scheduled in turns. With 5,000 nodes, each takes about 0.5 MB.
const mostKept = 16

// Kept has the evaluations that were used last, by signature, for the next pods of the same templates.
type Kept struct {
	by   map[string]*keptEvaluation
	uses uint64
}

type keptEvaluation struct {
	*Evaluation
	used uint64
}

// Evaluation returns an evaluation of a pod that is up to date: that of another pod of its template, if there is one.
func (k *Kept) Evaluation(c *Cluster, profile *Profile, p *PodInfo) *Evaluation {
	key := p.Signature()
	if key == "" || c.Distinguishes(p) {
		return NewEvaluation(c, profile, p)
	}
	if e := k.get(key); e != nil && e.CatchUp() {
		return e
	}
	e := NewEvaluation(c, profile, p)
	if e.Lasting() {
		k.put(key, e)
	}
	return e
}

func (k *Kept) get(key string) *Evaluation {
	kept := k.by[key]
	if kept == nil {
		return nil
	}
	k.uses++
	kept.used = k.uses
	return kept.Evaluation
}

func (k *Kept) put(key string, e *Evaluation) {
	if k.by == nil {
		k.by = map[string]*keptEvaluation{}
	}
	if _, replaces := k.by[key]; !replaces && len(k.by) >= mostKept {
		var oldest string
		for other, kept := range k.by {
			if oldest == "" || kept.used < k.by[oldest].used {
				oldest = other
			}
		}
		delete(k.by, oldest)
	}
	k.uses++
	k.by[key] = &keptEvaluation{e, k.uses}
}
