package objects

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/internal/kv"
)

func TestAFullDiskIsInsufficientStorage(t *testing.T) {
	err := storeError(nil, fmt.Errorf("propose: %w: the disk of the leader master-1 is full: free some space there", kv.ErrDiskFull))
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code != http.StatusInsufficientStorage {
		t.Fatalf("the answer is %v", err)
	}
	if text := status.Status().Message; !strings.Contains(text, "read-only") || !strings.Contains(text, "free some space there") {
		t.Errorf("it says %q", text)
	}
}
