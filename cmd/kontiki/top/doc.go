// Package top is `kontiki top`: a live view of a cluster's objects in a terminal, with the keys that k9s has for the essentials.
//
// Lists are the server's own tables (Accept: as=Table, see https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables),
// listed in pages and then watched, so every kind that is served can be shown, custom ones too. All requests carry the user's credentials.
//
// Its parts: Feed follows one list and holds its rows; Model is what the screen shows and what a key does, and touches neither the network nor a
// terminal; screen draws a Model; Run joins them. Whatever comes from the cluster passes clean before it is shown, since names of objects, cells
// of custom kinds and lines of logs may contain escape sequences that would control the terminal.
package top
