// Package agent is `kontiki agent`, a worker: its flags, and how its parts are put together. A master runs one on its own host too.
package agent
