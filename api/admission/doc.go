// Package admission contains the admission steps that every cluster runs, under the names that upstream's plugins have. A step without a
// name of upstream's plugins cannot be disabled, and runs first.
//
// # Where what is
//
// table.go has the order, and which steps are on; configuration.go reads upstream's admission configuration. Each step is in a file of its
// own, named after it:
//
//   - about namespaces and their limits: namespacelifecycle, limitranger, podsecurity, deletionprotection
//   - about what pods get: serviceaccount, priority, runtimeclass, defaulttolerationseconds, extendedresourcetoleration, alwayspullimages,
//     podtopologylabels, podresizevalidator
//   - about volumes, classes and devices: defaultclass, persistentvolumeclaimresize, storageobjectinuseprotection, resourceclaims
//   - about nodes: noderestriction (noderestrictionaudience for the tokens that they request), taintnodesbycondition
//   - about who may do more than the request's verb says: ownerreferences, signers (the three about certificates), policyparameters,
//     followed, denyserviceexternalips
//   - about events: eventratelimit
//
// Quotas are a step of package quota.
package admission
