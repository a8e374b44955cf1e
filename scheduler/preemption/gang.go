package preemption

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"

	"github.com/kontiki/kontiki/scheduler/framework"
)

const (
	// mostLooks limits how often the search for one gang looks at a node, mostChecks how often it asks whether a pod of the gang still
	// fits if a victim stays. Both are far beyond what a gang of the largest size needs whose pods are of a few templates.
	mostLooks  = 20_000
	mostChecks = 20_000
	// mostCorrections is how often a choice among nodes is made again because what was known about the best one was out of date.
	mostCorrections = 4
)

func gangsOf(pods []*framework.PodInfo) int {
	gangs := map[framework.GangKey]bool{}
	for _, p := range pods {
		if key, ok := framework.GangOf(p.Pod); ok {
			gangs[key] = true
		}
	}
	return len(gangs)
}

// PostFilterGang chooses nodes for the missing pods of a gang, and the fewest and least important pods there, so that all of the gang
// fits without them; if that is not possible, none. Victims have a lower priority than all pods of the gang that are to be placed, and
// are not of the gang.
func (d *Default) PostFilterGang(c *framework.Cluster, t *framework.GangTrial) *framework.GangNomination {
	members := slices.Concat(t.Placed, t.Waiting)
	if slices.ContainsFunc(members, func(p *framework.PodInfo) bool {
		return p.Spec.PreemptionPolicy != nil && *p.Spec.PreemptionPolicy == corev1.PreemptNever
	}) {
		return &framework.GangNomination{Message: prefix + "not eligible due to preemptionPolicy=Never."}
	}
	least := corehelpers.PodPriority(members[0].Pod)
	for _, p := range members {
		least = min(least, corehelpers.PodPriority(p.Pod))
	}
	hopeless := &framework.GangNomination{Message: prefix + noVictims.Message() + ".", Hopeless: true}
	if !c.AnyBelow(least) {
		return hopeless
	}
	g := &gangSearch{cluster: c, trial: t, nodes: map[types.UID]*framework.NodeInfo{}, known: map[string][]candidate{}}
	g.search = d.searchFor(c, func(other *framework.PodInfo) bool {
		key, _ := framework.GangOf(other.Pod)
		return corehelpers.PodPriority(other.Pod) < least && key != t.Key
	})
	for _, p := range t.Placed {
		_, name := c.Pod(p.UID)
		g.nodes[p.UID] = c.Node(name)
	}
	defer g.undo() // also after a panic
	missing := t.Missing
	for _, p := range t.Waiting {
		if missing > 0 && !g.late() && g.makeRoom(p) {
			missing--
		}
	}
	if missing > 0 {
		return hopeless
	}
	if g.giveBack(); len(g.victims) == 0 {
		return hopeless
	}
	n := &framework.GangNomination{Nodes: map[types.UID]string{}}
	for uid, node := range g.nodes {
		n.Nodes[uid] = node.Name
	}
	for _, v := range g.victims {
		n.Victims = append(n.Victims, v.pod)
	}
	n.Message = fmt.Sprintf(prefix+"found a potential placement for the gang, preempting %d victims", len(n.Victims))
	return n
}

// gangSearch looks for room for one pod of a gang after the other, and carries out in the cluster, for the time of the search, what it
// has chosen.
type gangSearch struct {
	*search
	cluster *framework.Cluster
	trial   *framework.GangTrial
	// nodes are where the pods of the gang are.
	nodes   map[types.UID]*framework.NodeInfo
	added   []*framework.PodInfo // those of them that the search has put there
	victims []gangVictim
	// known are the candidates that were found for pods with a signature. They may be out of date.
	known map[string][]candidate
	looks int
}

type gangVictim struct {
	pod  *framework.PodInfo
	node *framework.NodeInfo
}

func (g *gangSearch) late() bool { return g.trial.Late != nil && g.trial.Late() }

func (g *gangSearch) undo() {
	for _, p := range g.added {
		g.cluster.RemovePod(p.UID)
	}
	for _, v := range g.victims {
		g.cluster.Place(v.pod, v.node.Name)
	}
}

// makeRoom puts a pod of the gang on a node, and takes away the pods that must go for it.
func (g *gangSearch) makeRoom(p *framework.PodInfo) bool {
	e := g.trial.Evaluation(p)
	n, refusal := e.Choose(p)
	if refusal == nil { // there may be room left from victims of others
		g.put(p, n)
		return true
	}
	if refusal.Failure() != nil {
		return false
	}
	one, ok := g.choose(p, e, refusal)
	if !ok {
		return false
	}
	g.budgets.use(one.victims)
	for _, v := range slices.Concat(one.victims, one.leaving) {
		g.victims = append(g.victims, gangVictim{v, one.node})
		g.cluster.RemovePod(v.UID)
	}
	g.put(p, one.node)
	return true
}

func (g *gangSearch) put(p *framework.PodInfo, n *framework.NodeInfo) {
	g.nodes[p.UID] = n
	g.added = append(g.added, p)
	g.cluster.Place(p, n.Name)
}

// choose returns the best node for a pod. The candidates that were found for another pod of its template are used again. What was
// chosen since has changed some of them: the best one is looked at again before it is taken.
func (g *gangSearch) choose(p *framework.PodInfo, e *framework.Evaluation, refusal *framework.Refusal) (candidate, bool) {
	key := p.Signature()
	if one, ok := g.again(g.known[key], key, p, e); ok {
		return one, true
	}
	if g.looks > mostLooks {
		return candidate{}, false
	}
	nodes := resolvable(g.cluster, refusal)
	g.looks += len(nodes)
	found, _ := g.on(nodes, p, e)
	if key != "" {
		g.known[key] = found
	}
	if len(found) == 0 {
		return candidate{}, false
	}
	return g.best(found), true
}

// again chooses among known candidates.
func (g *gangSearch) again(known []candidate, key string, p *framework.PodInfo, e *framework.Evaluation) (candidate, bool) {
	for corrections := 0; len(known) > 0; {
		best := g.best(known)
		at := slices.IndexFunc(known, func(c candidate) bool { return c.node == best.node })
		g.looks++
		now, status := g.search.victims(p, e, best.node)
		if status != nil {
			known = slices.Delete(known, at, at+1)
			g.known[key] = known
			continue
		}
		same := g.costs(now) == g.costs(best)
		if known[at] = now; same || corrections == mostCorrections {
			return now, true
		}
		corrections++
	}
	return candidate{}, false
}

// giveBack puts victims back that need not go after all: what was chosen for one pod may have made what was chosen for an earlier one
// needless.
func (g *gangSearch) giveBack() {
	pods := make([]*framework.PodInfo, len(g.victims))
	nodes := map[types.UID]*framework.NodeInfo{}
	for i, v := range g.victims {
		pods[i], nodes[v.pod.UID] = v.pod, v.node
	}
	slices.SortFunc(pods, g.moreImportant)
	staying, leaving := part(pods, g.leaves)
	protected, others := newBudgets(g.budgets.list).split(staying)
	checks := 0
	for _, p := range slices.Concat(protected, others, leaving) {
		g.cluster.Place(p, nodes[p.UID].Name)
		if g.allFit(nodes[p.UID], &checks) {
			g.victims = slices.DeleteFunc(g.victims, func(v gangVictim) bool { return v.pod == p })
		} else {
			g.cluster.RemovePod(p.UID)
		}
	}
}

// allFit says whether all pods of the gang still fit where they are after a pod has come to a node.
func (g *gangSearch) allFit(changed *framework.NodeInfo, checks *int) bool {
	for _, p := range slices.Concat(g.trial.Placed, g.added) {
		n := g.nodes[p.UID]
		e := g.trial.Evaluation(p)
		if n != changed && !e.Tracks() {
			continue
		}
		if *checks++; *checks > mostChecks || g.late() || !fitsWhereItIs(e, p, n) {
			return false
		}
	}
	return true
}

func fitsWhereItIs(e *framework.Evaluation, p *framework.PodInfo, n *framework.NodeInfo) bool {
	e.Without(p, n)
	defer e.With(p, n)
	return e.Filter(p, n) == nil
}
