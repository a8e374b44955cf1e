// Package quota counts what a namespace's objects use, and enforces the ResourceQuotas, by counters that are part of each write.
//
// # Counters
//
// The key /quota/<namespace>/<quota>/<resource> is a counter (kv.Op.Add) of what the quota's objects use of a resource, in thousandths.
// A write that creates, changes or removes an object adds the difference in the command that stores the object; an increase has the
// quota's limit as its condition. Additions commute: a hundred creations at once do not conflict with each other, on any number of
// masters, and the state machine stores exactly those that fit.
//
// # The set of a namespace
//
// The key /quota/<namespace>/.set lists the namespace's quotas, by UID, and for each of them the resources whose counters are right. The
// command that creates, changes (in its specification) or removes a quota changes this key. Every write that may change usage requires
// it to be as it was read, or still absent. So no write is ever applied that was prepared with other quotas than those that exist.
//
// # Counting what exists
//
// When a quota is created or changed, the objects that exist must be counted while writes go on. Counters.Mend computes from one view
// the difference between what the objects use and what the counters say, and proposes it as additions, with the condition that the set
// is as in that view; the same command notes in the set that the counters are right. This is correct because no write changes the
// difference: since the set is unchanged, every write in between knew the quota and added what it used, whether its counters were right
// already or not, and whatever was added commutes with the correction. Two corrections of the same difference cannot both be applied, as
// the first one changes the set. A counter may therefore be negative until it is corrected.
//
// A quota that a transaction creates together with its namespace is counted in the same command: nothing can be in the namespace but what
// the transaction itself creates.
//
// Until a counter is right nothing is known about its limit, so a write that would increase it waits for the correction, a moment
// usually, and is refused in the end as upstream refuses it ("status unknown for quota").
//
// # Stuck pods
//
// A pod that has not ended long after it was deleted, because its node is lost, must not take the room of those that replace it. What is
// used depends on the state only, not on the time; so the controller releases such a pod by a command (Counters.Release): it subtracts what
// the pod uses, and puts a key, which every further write of the pod requires to be as it was read.
//
// # Differences from upstream
//
// A resource claim counts for its device class, and not for the extended resource that the class may stand for. Sums stop at the limits of an int64, in thousandths: 9.2 * 10^15.
package quota
