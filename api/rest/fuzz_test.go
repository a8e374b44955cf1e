package rest_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/api/rest"
	"github.com/kontiki/kontiki/test/harness"
)

// FuzzTransactions sends arbitrary bytes as transactions: each is answered, and never with an internal error.
func FuzzTransactions(f *testing.F) {
	operations := []string{
		`{"create":` + configMap("a", "1") + `}`, `{"update":` + configMap("a", "2") + `,"keepManagedFields":true}`,
		`{"apply":` + configMap("b", "2") + `,"force":true}`, `{"delete":{` + reference("a") + `,"options":{"gracePeriodSeconds":0,"preconditions":{"uid":"u"}}}}`,
		`{"patch":{` + reference("a") + `,"type":"application/merge-patch+json","patch":{"data":{"k":"3"}}}}`, `{"check":{` + reference("c") + `,"resourceVersion":"1"}}`,
	}
	valid := `{"fieldManager":"m","fieldValidation":"Strict","dryRun":true,"operations":[` + strings.Join(operations, ",") + `]}`
	f.Add(valid)
	for at := 0; at < len(valid); at += 5 {
		f.Add(valid[:at])
		f.Add(valid[:at] + "null" + valid[at:])
		f.Add(valid[:at] + valid[min(at+9, len(valid)):])
	}
	for _, text := range []string{"", "null", "[]", "{}", `{"operations":null}`, `{"operations":[null]}`, `{"operations":[{}]}`, `{"operations":[{"create":null}]}`} {
		f.Add(text)
	}
	handler := harness.New(f).AsAdmin()
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest("POST", rest.TransactionsPath, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}
