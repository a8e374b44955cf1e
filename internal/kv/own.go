package kv

// OwnPrefix is the prefix of the keys under which the cluster stores what concerns itself: members, tokens, settings, the feature
// level. A backup does not bring them back.
const OwnPrefix = "/kontiki/"
