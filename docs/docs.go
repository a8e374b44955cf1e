// Package docs has the documents of this folder, as part of the binary: the dashboard serves them as pages.
package docs

import "embed"

// Files are the documents, by their paths in this folder.
//
//go:embed *.md tutorials/*.md
var Files embed.FS
