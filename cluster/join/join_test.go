package join

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/pki"
)

func TestTokens(t *testing.T) {
	ca, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	token, err := NewToken(ca, pki.RoleWorker)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseToken(" " + token.String() + "\n")
	if err != nil || parsed != token || parsed.Pin != ca.Pin() {
		t.Errorf("parsed %+v, %v", parsed, err)
	}
	if err := parsed.RequireRole(pki.RoleMaster); !errors.Is(err, errclass.ErrToken) || !strings.Contains(err.Error(), "--role master") {
		t.Errorf("a worker's token of a master: %v", err)
	}
	for _, text := range []string{"", "K10", token.String()[:80], token.String() + "x", strings.Replace(token.String(), "worker", "admin", 1)} {
		if _, err := ParseToken(text); !errors.Is(err, errclass.ErrToken) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := NewToken(ca, "admin"); err == nil {
		t.Error("a token for no role was made")
	}
}

// TestErrorsOfMastersKeepTheirClass: errors.Is works in the joining host, and the error has the master's text.
func TestErrorsOfMastersKeepTheirClass(t *testing.T) {
	for code, class := range map[codes.Code]error{
		codes.PermissionDenied: errclass.ErrToken, codes.AlreadyExists: errclass.ErrNameTaken, codes.FailedPrecondition: errclass.ErrRemoved,
		codes.OutOfRange: errclass.ErrFeatureLevel, codes.InvalidArgument: errclass.ErrRefused,
	} {
		if err := errclass.FromStatus(status.Error(code, "what is wrong")); !errors.Is(err, class) || err.Error() != "what is wrong" {
			t.Errorf("%v: %v", code, err)
		}
	}
	if err := errclass.FromStatus(nil); err != nil {
		t.Errorf("no error: %v", err)
	}
}

func TestMergeAddresses(t *testing.T) {
	if got := MergeAddresses([]string{"a", "b"}, []string{"b", "self", "c"}, "self"); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("merged %v", got)
	}
}

func TestCheckName(t *testing.T) {
	for name, good := range map[string]bool{"a": true, "master-1": true, "a.b": true, "": false, "-a": false, "A": false, "a/b": false, strings.Repeat("a", 64): false} {
		if err := CheckName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}
