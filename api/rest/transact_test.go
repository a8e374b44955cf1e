package rest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientrest "k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/rest"
	"github.com/kontiki/kontiki/test/harness"
)

// transact posts a transaction, and returns its results or its Status.
func transact(t *testing.T, h *harness.Harness, who *clientrest.Config, body string) (code int, status metav1.Status, answer struct {
	ResourceVersion string
	Results         []struct {
		Object        *corev1.ConfigMap
		Created, Gone bool
		Warnings      []string
	}
}) {
	t.Helper()
	client, err := clientrest.HTTPClientFor(who)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Post(who.Host+rest.TransactionsPath, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode == http.StatusOK {
		err = json.Unmarshal(data, &answer)
	} else {
		err = json.Unmarshal(data, &status)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return response.StatusCode, status, answer
}

func configMap(name, value string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"default","name":%q},"data":{"k":%q}}`, name, value)
}

func reference(name string) string {
	return fmt.Sprintf(`"apiVersion":"v1","kind":"ConfigMap","namespace":"default","name":%q`, name)
}

func TestTransactionsByREST(t *testing.T) {
	h := harness.New(t)
	admin := h.Config("admin", "system:masters")
	set := h.Clientset().CoreV1().ConfigMaps("default")
	code, status, answer := transact(t, h, admin, `{"operations":[{"create":`+configMap("a", "1")+`},{"create":`+configMap("b", "1")+`},{"create":`+configMap("gone", "1")+`}]}`)
	if code != 200 || len(answer.Results) != 3 || !answer.Results[0].Created || answer.Results[2].Object.Name != "gone" {
		t.Fatalf("%d %+v %+v", code, status, answer)
	}
	version := answer.Results[1].Object.ResourceVersion
	code, status, answer = transact(t, h, admin, `{"fieldManager":"tests","operations":[
		{"update":`+configMap("a", "2")+`},{"check":{`+reference("b")+`,"resourceVersion":"`+version+`"}},
		{"apply":`+configMap("applied", "x")+`,"force":true},{"delete":{`+reference("gone")+`,"options":{"gracePeriodSeconds":0}}},{"check":{`+reference("never")+`}}]}`)
	if code != 200 || len(answer.Results) != 5 || !answer.Results[2].Created || !answer.Results[3].Gone || answer.Results[1].Object != nil {
		t.Fatalf("%d %+v %+v", code, status, answer)
	}
	list, err := set.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, m := range list.Items {
		got[m.Name] = m.Data["k"]
		if m.Name == "applied" && m.ManagedFields[0].Manager != "tests" {
			t.Errorf("fields belong to %q", m.ManagedFields[0].Manager)
		}
	}
	if fmt.Sprint(got) != "map[a:2 applied:x b:1]" || answer.ResourceVersion != list.ResourceVersion {
		t.Errorf("%v at %s, answered at %s", got, list.ResourceVersion, answer.ResourceVersion)
	}
	code, _, answer = transact(t, h, admin, `{"dryRun":true,"operations":[{"patch":{`+reference("a")+`,"type":"merge","patch":{"data":{"k":"3"}}}}]}`)
	if now, err := set.Get(t.Context(), "a", metav1.GetOptions{}); err != nil || code != 200 || answer.Results[0].Object.Data["k"] != "3" || now.Data["k"] != "2" {
		t.Errorf("a dry run: %d %+v, now %v", code, answer, now.Data)
	}
}

func TestTransactionsThatAreRefused(t *testing.T) {
	h := harness.New(t)
	admin, nobody := h.Config("admin", "system:masters"), h.Config("nobody")
	if code, status, _ := transact(t, h, admin, `{"operations":[{"create":`+configMap("a", "1")+`}]}`); code != 200 {
		t.Fatalf("%+v", status)
	}
	before := h.Store.View().Revision()
	ok := `{"create":` + configMap("fresh", "1") + `}`
	for name, x := range map[string]struct {
		who    *clientrest.Config
		body   string
		code   int
		reason metav1.StatusReason
		says   string
	}{
		"no JSON":            {admin, `operations: []`, 400, metav1.StatusReasonBadRequest, "cannot be read"},
		"an unknown field":   {admin, `{"operation":[` + ok + `]}`, 400, metav1.StatusReasonBadRequest, `unknown field "operation"`},
		"nothing":            {admin, `{}`, 400, metav1.StatusReasonBadRequest, "at least one"},
		"two in one":         {admin, `{"operations":[` + ok + `,{"create":` + configMap("x", "1") + `,"check":{` + reference("a") + `}}]}`, 400, metav1.StatusReasonBadRequest, "operations[1]: exactly one"},
		"an unknown kind":    {admin, `{"operations":[{"create":{"apiVersion":"v1","kind":"Gadget","metadata":{"name":"a","namespace":"default"}}}]}`, 400, metav1.StatusReasonBadRequest, `operations[0]: kind: no matches for kind "Gadget"`},
		"no namespace":       {admin, `{"operations":[{"create":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}}]}`, 400, metav1.StatusReasonBadRequest, "metadata.namespace"},
		"no name":            {admin, `{"operations":[{"create":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"default"}}}]}`, 400, metav1.StatusReasonBadRequest, "create.metadata.name"},
		"a strange patch":    {admin, `{"operations":[{"patch":{` + reference("a") + `,"type":"magic","patch":{}}}]}`, 400, metav1.StatusReasonBadRequest, "patch.type"},
		"exists":             {admin, `{"operations":[` + ok + `,{"create":` + configMap("a", "1") + `}]}`, 409, metav1.StatusReasonAlreadyExists, "operations[1]: "},
		"a failed check":     {admin, `{"operations":[` + ok + `,{"check":{` + reference("a") + `}}]}`, 409, metav1.StatusReasonAlreadyExists, "operations[1]: "},
		"duplicates":         {admin, `{"operations":[` + ok + `,` + ok + `]}`, 409, metav1.StatusReasonAlreadyExists, "operations[1]: "},
		"who may not":        {nobody, `{"operations":[` + ok + `]}`, 403, metav1.StatusReasonForbidden, `cannot post path "/kontiki/v1/transactions"`},
		"a wrong type":       {admin, `{"operations":[{"create":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"t","namespace":"default"},"data":[1]}}]}`, 400, metav1.StatusReasonBadRequest, "operations[0]: "},
		"no object":          {admin, `{"operations":[` + ok + `,{"create":[]}]}`, 400, metav1.StatusReasonBadRequest, "operations[1]: create: cannot be a JSON array"},
		"a number as name":   {admin, `{"operations":[{"create":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":7,"namespace":"default"}}}]}`, 400, metav1.StatusReasonBadRequest, "create.metadata.name: cannot be a JSON number"},
		"a dry deletion":     {admin, `{"operations":[{"delete":{` + reference("a") + `,"options":{"dryRun":["All"]}}}]}`, 400, metav1.StatusReasonBadRequest, "operations[0]: delete.options.dryRun: "},
		"no deletion's name": {admin, `{"operations":[{"delete":{` + reference("") + `}}]}`, 400, metav1.StatusReasonBadRequest, "operations[0]: delete.name: must be given"},
		"no check's name":    {admin, `{"operations":[` + ok + `,{"check":{` + reference("") + `}}]}`, 400, metav1.StatusReasonBadRequest, "operations[1]: check.name: must be given"},
		"no patch's name":    {admin, `{"operations":[{"patch":{` + reference("") + `,"type":"merge","patch":{}}}]}`, 400, metav1.StatusReasonBadRequest, "operations[0]: patch.name: must be given"},
		"a check of a path":  {admin, `{"operations":[` + ok + `,{"check":{` + reference("a/b") + `}}]}`, 400, metav1.StatusReasonBadRequest, "operations[1]: name: \"a/b\" may not contain '/'"},
		"a part to create":   {admin, `{"operations":[{"create":` + configMap("x", "1") + `,"subresource":"status"}]}`, 400, metav1.StatusReasonBadRequest, "operations[0]: subresource: "},
		"a part beside":      {admin, `{"operations":[{"patch":{` + reference("a") + `,"type":"merge","patch":{}},"subresource":"status"}]}`, 400, metav1.StatusReasonBadRequest, "operations[0]: subresource: must be in patch"},
		"force to update":    {admin, `{"operations":[{"update":` + configMap("a", "2") + `,"force":true}]}`, 400, metav1.StatusReasonBadRequest, "operations[0]: force: "},
		"keeping":            {admin, `{"operations":[{"create":` + configMap("x", "2") + `,"keepManagedFields":true}]}`, 400, metav1.StatusReasonBadRequest, "operations[0]: keepManagedFields: "},
		"nobody's fields":    {admin, `{"operations":[{"apply":` + configMap("x", "2") + `}]}`, 422, metav1.StatusReasonInvalid, "operations[0]: Transaction.kontiki \"\" is invalid: fieldManager: Required value"},
		"a long manager":     {admin, `{"fieldManager":"` + strings.Repeat("m", 129) + `","operations":[` + ok + `]}`, 422, metav1.StatusReasonInvalid, "fieldManager: Too long"},
		"no validation":      {admin, `{"fieldValidation":"strict","operations":[` + ok + `]}`, 422, metav1.StatusReasonInvalid, "fieldValidation: Unsupported value"},
		"strict validation":  {admin, `{"fieldValidation":"Strict","operations":[{"create":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"t","namespace":"default"},"dato":{}}}]}`, 400, metav1.StatusReasonBadRequest, "dato"},
	} {
		code, status, _ := transact(t, h, x.who, x.body)
		if code != x.code || status.Reason != x.reason || !strings.Contains(status.Message, x.says) {
			t.Errorf("%s: %d %s %q", name, code, status.Reason, status.Message)
		}
	}
	if now := h.Store.View().Revision(); now != before {
		t.Errorf("something was stored: revision %d, before %d", now, before)
	}
	client, err := clientrest.HTTPClientFor(admin)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Get(admin.Host + rest.TransactionsPath)
	if err != nil || response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("a GET: %v, %v", response, err)
	}
	if err == nil {
		response.Body.Close()
	}
	if _, err := h.Clientset().CoreV1().ConfigMaps("default").Get(t.Context(), "fresh", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("half of a transaction is there: %v", err)
	}
}
