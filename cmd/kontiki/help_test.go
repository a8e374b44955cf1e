package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestEveryCommandHasAnExample: whoever types --help sees a line to copy, which names the command.
func TestEveryCommandHasAnExample(t *testing.T) {
	paths := map[string]bool{}
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		paths[strings.TrimPrefix(c.CommandPath(), "kontiki ")] = true
		for _, sub := range c.Commands() {
			visit(sub)
		}
		if !c.Runnable() || c.Hidden || c.Parent() != nil && c.Parent().Hidden || !c.HasParent() {
			return
		}
		if !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s has no example that names it: %q", c.CommandPath(), c.Example)
		}
		if c.Short == "" {
			t.Errorf("%s has no description", c.CommandPath())
		}
	}
	visit(root())
	for path := range examples {
		if !paths[path] {
			t.Errorf("there is no command %q, which has an example", path)
		}
	}
}

// TestExamplesAreCommandsThatExist: each line of an example is parsed, with its flags, by the command that it shows.
func TestExamplesAreCommandsThatExist(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			visit(sub)
		}
		for _, line := range strings.Split(c.Example, "\n") {
			words := strings.Fields(line)
			if len(words) == 0 || words[0] != "kontiki" || len(words) > 1 && words[1] == "kubectl" {
				continue
			}
			found, rest, err := root().Find(words[1:])
			if err != nil || found.CommandPath() != c.CommandPath() {
				t.Errorf("%q of %s is not of that command: %v", line, c.CommandPath(), err)
				continue
			}
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("%q: %v", line, err)
				continue
			}
			if err := found.ValidateArgs(found.Flags().Args()); err != nil {
				t.Errorf("%q: %v", line, err)
			}
		}
	}
	visit(root())
}
