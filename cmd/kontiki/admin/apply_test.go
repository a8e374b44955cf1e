package admin

import (
	"strings"
	"testing"
)

func TestApplyTakesDryRunAsKubectlDoes(t *testing.T) {
	for arg, want := range map[string]string{"--dry-run": "true", "--dry-run=server": "true", "--dry-run=true": "true", "--dry-run=none": "false", "--atomic": "false"} {
		cmd := applyCommand()
		if err := cmd.ParseFlags([]string{arg}); err != nil || cmd.Flag("dry-run").Value.String() != want {
			t.Errorf("%s: %s, %v", arg, cmd.Flag("dry-run").Value, err)
		}
	}
	for arg, want := range map[string]string{"--dry-run=client": "use --dry-run=server", "--dry-run=maybe": "must be server or none"} {
		if err := applyCommand().ParseFlags([]string{arg}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", arg, err)
		}
	}
}
