// Package static runs the static pods of a node: those that are described by files in a folder of the node, one pod each, in YAML or
// JSON, as the kubelet's staticPodPath. They run whether or not there is a master.
//
//   - decode.go: from a file's content to a pod, by upstream's rules
//   - folder.go: reads the folder and notices changes
//   - static.go: starts, replaces and ends the pods as the files say
//   - mirrors.go: the mirror pods by which the API shows them
//
// A pod's UID is a hash of its file's name and content, so a changed file is another pod, which starts when the pod before it has ended. A file
// that cannot be read as a pod is reported in the log, and changes nothing: the pod that it described before goes on.
package static
