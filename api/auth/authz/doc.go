// Package authz decides what users may do. It asks, in this order, until one has an opinion: members of system:masters may do
// everything, health may be read by everyone, nodes may do what is about them and their pods (Nodes), and all others may do what
// roles that are bound to them allow (Rules).
//
// Decisions read the local replica's state and cost microseconds, however many roles and bindings there are: Rules keeps an index by
// subject, which follows the store's history. A decision contains every change that this replica has applied.
package authz
