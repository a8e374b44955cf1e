package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheReferenceIsThatOfTheCommands: docs/commands.md is what `make generate` writes.
func TestTheReferenceIsThatOfTheCommands(t *testing.T) {
	var now bytes.Buffer
	if err := reference(documented(root()), &now); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	if now.String() != string(written) {
		t.Error("docs/commands.md is not that of the commands: run `make generate`")
	}
}

// TestTheReferenceIsThatOfTheRoles: docs/reference-roles.md is what `make generate` writes.
func TestTheReferenceIsThatOfTheRoles(t *testing.T) {
	var now bytes.Buffer
	c := root()
	c.SetArgs([]string{"generate", "roles"})
	c.SetOut(&now)
	if err := c.Execute(); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile("../../docs/reference-roles.md")
	if err != nil || now.String() != string(written) {
		t.Errorf("docs/reference-roles.md is not that of the roles: run `make generate` (%v)", err)
	}
	for _, part := range []string{"### cluster-admin\n\nBound to the group `system:masters`.", "### kontiki:viewer\n", "### kube-system/extension-apiserver-authentication-reader"} {
		if !strings.Contains(now.String(), part) {
			t.Errorf("%q is missing", part)
		}
	}
}

func TestManualPages(t *testing.T) {
	dir := t.TempDir()
	c := root()
	c.SetArgs([]string{"generate", "man", dir})
	if err := c.Execute(); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "kontiki-snapshot-save.1"))
	if err != nil || !strings.Contains(string(page), ".SH SYNOPSIS") {
		t.Errorf("kontiki-snapshot-save(1): %v\n%s", err, page)
	}
	if _, err := os.Stat(filepath.Join(dir, "kontiki-generate-man.1")); err == nil {
		t.Error("a hidden command has a page")
	}
}
