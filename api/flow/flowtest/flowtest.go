// Package flowtest makes small configurations of package flow for tests.
package flowtest

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/flow"
)

// Rejecting returns a Control with that many seats for all users together but administrators; others are refused.
func Rejecting(seats int) *flow.Control {
	return one(seats, flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject})
}

// Queuing is like Rejecting, but up to that many requests wait.
func Queuing(seats int, waiting int32) *flow.Control {
	return one(seats, flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeQueue,
		Queuing: &flowcontrolv1.QueuingConfiguration{Queues: 1, HandSize: 1, QueueLengthLimit: waiting}})
}

// The names and UIDs of the only schema and level.
const (
	Name      = "everybody"
	SchemaUID = "uid-of-the-schema"
	LevelUID  = "uid-of-the-level"
)

func one(seats int, response flowcontrolv1.LimitResponse) *flow.Control {
	c := flow.New(seats)
	limited := func(name string, shares int32, response flowcontrolv1.LimitResponse) *flowcontrolv1.PriorityLevelConfiguration {
		return &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name, UID: LevelUID}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type:    flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: ptr.To(shares), LimitResponse: response},
		}}
	}
	all := []string{"*"}
	c.Configure([]*flowcontrolv1.FlowSchema{{ObjectMeta: metav1.ObjectMeta{Name: Name, UID: SchemaUID}, Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: Name}, MatchingPrecedence: 100,
		DistinguisherMethod: &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects:         []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: "*"}}},
			ResourceRules:    []flowcontrolv1.ResourcePolicyRule{{Verbs: all, APIGroups: all, Resources: all, Namespaces: all, ClusterScope: true}},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: all, NonResourceURLs: all}},
		}},
	}}}, []*flowcontrolv1.PriorityLevelConfiguration{
		limited(Name, 100, response),
		limited("catch-all", 0, flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}),
	})
	return c
}
