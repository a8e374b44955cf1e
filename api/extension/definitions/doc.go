// Package definitions makes what CustomResourceDefinitions define a part of the API while the process runs: it keeps the catalog as the
// definitions in the store are (Definitions), and decides which names a definition gets (Names).
//
// Names are accepted, and a definition becomes Established, in the command that stores it; its response is sent when this master serves it.
// Other masters follow the log. A request that finds no resource, or asks for discovery, first makes sure that its master has followed it
// as far as any acknowledged write: so whoever has been told that a definition is stored finds it served on every master.
package definitions
