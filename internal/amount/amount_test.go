package amount_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kontiki/kontiki/internal/amount"
)

func TestAmountsHaveABound(t *testing.T) {
	for text, want := range map[string][2]int64{
		"0": {0, 0}, "250m": {1, 250}, "1": {1, 1000}, "2Gi": {2 << 30, 2000 << 30}, "1.5": {2, 1500},
		"1e30": {amount.Most, amount.Most}, "9223372036854775807": {amount.Most, amount.Most}, "18446744073709551616": {amount.Most, amount.Most},
		"18446744073709551617": {amount.Most, amount.Most}, "8Ei": {amount.Most, amount.Most}, "2251799813685247": {amount.Most, amount.Most}, "2251799813685246": {amount.Most - 1, amount.Most},
		"2251799813685.246": {2251799813686, amount.Most - 1},
	} {
		q := resource.MustParse(text)
		if got := [2]int64{amount.Value(&q), amount.Milli(&q)}; got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}
