package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/kontiki/kontiki/cmd/kontiki/process"
)

// generateCommand returns the command that writes the documentation of all commands, which the Makefile runs.
func generateCommand() *cobra.Command {
	c := &cobra.Command{Use: "generate", Short: "Write the documentation of these commands", Hidden: true}
	c.AddCommand(&cobra.Command{
		Use: "man DIRECTORY", Short: "Write a manual page for each command", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			date, err := time.Parse(time.RFC3339, process.BuildDate)
			if err != nil {
				return err
			}
			return doc.GenManTree(documented(cmd.Root()), &doc.GenManHeader{Section: "1", Source: "Kontiki " + process.GitVersion, Manual: "Kontiki", Date: &date}, args[0])
		},
	}, &cobra.Command{
		Use: "markdown", Short: "Write the reference of all commands, docs/commands.md, to the output", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return reference(documented(cmd.Root()), cmd.OutOrStdout())
		},
	}, &cobra.Command{
		Use: "roles", Short: "Write the reference of default roles, docs/reference-roles.md, to the output", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return rolesReference(cmd.OutOrStdout()) },
	})
	return c
}

// documented prepares commands for cobra's generators.
func documented(c *cobra.Command) *cobra.Command {
	c.DisableAutoGenTag = true
	for _, sub := range c.Commands() {
		documented(sub)
	}
	return c
}

// head is the beginning of docs/commands.md.
const head = `# Commands

Made from the program by ` + "`make generate`. `kontiki COMMAND --help`" + ` prints the same, and there is a manual page for each.

Exit codes: 0 if it worked; 1 with a message on standard error if not; 2 if a command that shows a state has worked and the state needs attention
(` + "`kontiki status`, `kontiki cluster status`, `kontiki secrets status`). `kontiki kubectl`" + ` exits as kubectl does. Completion for shells, also of the
names of pods and masters: ` + "`kontiki completion bash --help`" + `.

`

// reference writes one page of Markdown about a command and all below it.
func reference(c *cobra.Command, w io.Writer) error {
	if c.HasParent() {
		var page bytes.Buffer
		if err := doc.GenMarkdownCustom(c, &page, func(file string) string {
			return "#" + strings.ReplaceAll(strings.TrimSuffix(file, ".md"), "_", "-")
		}); err != nil {
			return err
		}
		text, _, _ := strings.Cut(page.String(), "### SEE ALSO")
		if _, err := fmt.Fprint(w, strings.TrimRight(text, "\n"), "\n\n"); err != nil {
			return err
		}
	} else if _, err := fmt.Fprint(w, head); err != nil {
		return err
	}
	for _, sub := range c.Commands() {
		if !sub.IsAvailableCommand() || sub.Name() == "completion" || sub.Name() == "help" {
			continue
		}
		if err := reference(sub, w); err != nil {
			return err
		}
	}
	return nil
}
