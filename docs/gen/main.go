// Command gen writes docs/reference-grpc.md, the reference of the gRPC API, from the comments of the .proto files. `make generate` runs it in the repository's root.
package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

const (
	protocols = "proto/kontiki/v1"
	out       = "docs/reference-grpc.md"
)

func main() {
	text, err := reference(protocols)
	if err == nil {
		err = os.WriteFile(out, []byte(text), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

const head = `# Reference: the gRPC API

Made from [proto/kontiki/v1](../proto/kontiki/v1) by ` + "`make generate`" + `. How to connect, errors and limits: [grpc.md](grpc.md).
`

var (
	element = regexp.MustCompile(`^( *)(service|message|enum|oneof) (\w+) \{(\})?$`)
	method  = regexp.MustCompile(`^ +rpc (\w+)\((.*?)\) returns \((.*?)\);$`)
	field   = regexp.MustCompile(`^ +((?:optional |repeated )?[\w.]+|map<\w+, [\w.]+>) (\w+) = (\d+);(?: *//.*)?$`)
	value   = regexp.MustCompile(`^ +([A-Z][A-Z0-9_]*) = (\d+);(?: *//.*)?$`)
	ignored = regexp.MustCompile(`^(syntax|package|import|option) .*;$`)
)

// reference returns the reference of the .proto files of a folder. A line that it does not understand is an error, so that nothing is left out.
func reference(folder string) (string, error) {
	var page strings.Builder
	page.WriteString(head)
	for _, name := range []string{"objects", "cluster", "pods"} {
		path := folder + "/" + name + ".proto"
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&page, "\n## %s.proto\n", name)
		if err := file(&page, string(text)); err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
	}
	return page.String(), nil
}

// file writes what a .proto file defines.
func file(page *strings.Builder, text string) error {
	var comment, within []string // within: the elements that are open
	table := false
	row := func(head string, cells ...string) {
		if !table {
			fmt.Fprintf(page, "\n%s\n", head)
			table = true
		}
		fmt.Fprintf(page, "| %s |\n", strings.Join(cells, " | "))
	}
	for n, line := range strings.Split(text, "\n") {
		said := sentence(comment)
		trimmed := strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(trimmed, "//"); ok {
			comment = append(comment, strings.TrimPrefix(rest, " "))
			continue
		}
		switch m := []string(nil); {
		case trimmed == "":
		case ignored.MatchString(line):
			if strings.HasPrefix(line, "package ") && len(comment) > 0 {
				preface(page, comment)
			}
		case trimmed == "}":
			if len(within) == 0 {
				return fmt.Errorf("line %d: nothing is open", n+1)
			}
			within = within[:len(within)-1]
		default:
			if m = element.FindStringSubmatch(line); m != nil {
				if m[2] == "oneof" {
					row("| field | type | what |\n|---|---|---|", "", "one of "+code(m[3]), said)
				} else {
					name := strings.Join(append(names(within), m[3]), ".")
					fmt.Fprintf(page, "\n### %s %s\n\n%s\n", m[2], name, said)
					table = false
				}
				if m[4] == "" {
					within = append(within, m[2]+" "+m[3])
				}
			} else if m = method.FindStringSubmatch(line); m != nil {
				row("| method | request | response | what |\n|---|---|---|---|", code(m[1]), code(m[2]), code(m[3]), said)
			} else if m = field.FindStringSubmatch(line); m != nil {
				row("| field | type | what |\n|---|---|---|", code(m[2]), code(m[1]), said)
			} else if m = value.FindStringSubmatch(line); m != nil {
				row("| value | what |\n|---|---|", code(m[1]), said)
			} else {
				return fmt.Errorf("line %d is not understood: %s", n+1, line)
			}
		}
		comment = nil
	}
	if len(within) > 0 {
		return fmt.Errorf("%s is not closed", within[len(within)-1])
	}
	return nil
}

// names are the names of open messages and enums.
func names(within []string) (out []string) {
	for _, w := range within {
		if name, ok := strings.CutPrefix(w, "message "); ok {
			out = append(out, name)
		}
	}
	return out
}

func code(s string) string { return "`" + s + "`" }

// sentence joins a comment, for a cell of a table.
func sentence(comment []string) string {
	return strings.ReplaceAll(strings.Join(comment, " "), "|", `\|`)
}

// preface writes the comment of a package, whose indented lines are a table of its own.
func preface(page *strings.Builder, comment []string) {
	block := false
	page.WriteString("\n")
	for _, line := range comment {
		if indented := strings.HasPrefix(line, "  "); indented != block && strings.TrimSpace(line) != "" {
			if block {
				page.WriteString("```\n")
			} else {
				page.WriteString("```text\n")
			}
			block = indented
		}
		page.WriteString(line + "\n")
	}
	if block {
		page.WriteString("```\n")
	}
}
