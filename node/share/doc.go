// Package share lets the nodes of a cluster fetch the content of images from each other before they ask the registry, so that an image that
// many nodes pull at the same time is fetched from the registry once.
//
//   - A pull first asks the registry what an image's name stands for, with the pod's credentials. So a node gets from others only what the
//     registry lets the pod have. The answer is the digest of the image.
//   - For each image one node keeps the list of the nodes that have the image or are pulling it: the image's tracker. It is the node with the
//     highest hash of its name and the digest (rendezvous hashing), so all nodes that know the same nodes agree on it. It keeps the list in memory
//     only, and nodes announce their images again from time to time (tracker.go).
//   - The tracker tells a node from which other one to fetch: its source. That node may itself still be pulling: then a blob is passed on as soon
//     as it is complete. A source is given to few nodes, so many pulls form a tree, and never a circle.
//   - A blob is a file of an image: an index, a manifest, a configuration or a layer. What a peer sends must have the size that its descriptor
//     has, and its digest is verified twice: while it is read, to know which peer sent something else, and by containerd.
//   - Whatever fails, the registry is asked instead: a node without peers pulls as if this package did not exist.
//
// The nodes talk by HTTPS on their own ports (10250), with the certificates that the masters issued to them:
//
//	POST /kontiki/peers/images           which images a node has (announcement)
//	POST /kontiki/peers/images/DIGEST    a node begins or ends to pull an image, or its source failed; the response names a source (pull)
//	GET  /kontiki/peers/blobs/DIGEST     a blob; 202 with the bytes that the pull has received so far if it is not complete yet
package share
