package localpath

import "testing"

func TestOnlyVolumesOfTheseProvisionersHaveANode(t *testing.T) {
	for by, want := range map[string]string{Provisioner: "n", NFS: "n", "other.example.com": "", "": ""} {
		if got := NodeOf(map[string]string{ProvisionedBy: by, Node: "n"}); got != want {
			t.Errorf("a volume of %q has the node %q, want %q", by, got, want)
		}
	}
}

func TestFoldersAreRemovedWhenTheirClaimIsGone(t *testing.T) {
	for _, x := range []struct {
		policy, phase string
		deleted, want bool
	}{
		{"Delete", "Released", false, true},
		{"Delete", "Failed", false, true},
		{"Delete", "Available", true, true},
		{"Delete", "Available", false, false},
		{"Delete", "Bound", false, false},
		{"Delete", "Bound", true, false},
		{"Retain", "Released", false, false},
		{"Retain", "Released", true, false},
	} {
		if got := ToRemove(x.policy, x.phase, x.deleted); got != x.want {
			t.Errorf("%+v: %v", x, got)
		}
	}
}
