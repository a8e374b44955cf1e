package custom

import (
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/util/jsonpath"
)

// A path of a column may name the same value over and over: each ".." names what is below every value so far, a union has each as often as it
// has names. Such a path of a few bytes, for an object of as few, would take all memory, and nothing could stop it. So columns with such paths
// are empty, and so are those after the first ones of very many. A loop ("range") would change the path itself while others use it.
const (
	maxColumns    = 100
	maxColumnPath = 1024
	maxRepeated   = 8
)

// boundedColumns returns columns of which those that are too costly are empty.
func boundedColumns(columns []apiextensionsv1.CustomResourceColumnDefinition) []apiextensionsv1.CustomResourceColumnDefinition {
	out := make([]apiextensionsv1.CustomResourceColumnDefinition, len(columns))
	for i, c := range columns {
		if i >= maxColumns || costly(c.JSONPath) {
			if c.Description == "" {
				c.Description = fmt.Sprintf("Custom resource definition column (in JSONPath format): %.1024s", c.JSONPath)
			}
			c.JSONPath = ".metadata['']" // which nothing has
		}
		out[i] = c
	}
	return out
}

// costly says whether results of a path may be many more than the values of an object, or finding them take very long. A path that cannot be parsed is not.
func costly(path string) bool {
	if len(path) > maxColumnPath {
		return true
	}
	parser, err := jsonpath.Parse("column", "{"+path+"}")
	if err != nil {
		return false
	}
	many, repeated := false, 1
	var count func(node jsonpath.Node)
	count = func(node jsonpath.Node) {
		switch node := node.(type) {
		case *jsonpath.ListNode:
			for _, n := range node.Nodes {
				count(n)
			}
		case *jsonpath.FilterNode:
			count(node.Left)
			count(node.Right)
		case *jsonpath.UnionNode:
			repeated = min(repeated*max(len(node.Nodes), 1), maxRepeated+1)
			for _, n := range node.Nodes {
				count(n)
			}
		case *jsonpath.RecursiveNode, *jsonpath.IdentifierNode:
			many = true
		}
	}
	count(parser.Root)
	return many || repeated > maxRepeated
}
