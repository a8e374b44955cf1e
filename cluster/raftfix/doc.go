// Package raftfix works around defects of hashicorp/raft v1.8.0. It wraps raft's transport, log store and snapshot store (Wrap),
// and replaces what raft does too late or not strictly enough (Announcer, Verifier). Each part can be removed separately:
//
//	defect                                         upstream         here          shown by                                        delete when
//	a pipeline whose responses are not read        none known       transport.go  TestAPipelineWhoseAnswersNobodyReads            raft reads responses until a
//	blocks, and so does the shutdown                                                                                              pipeline is closed
//	a log that conflicts with an installed         #697, #704       install.go    TestAFollowerWhoseLogConflictsWithASnapshot,    raft discards such a log (the
//	snapshot is kept, and its entries are used                                    TestWhatConflictsWithASnapshot                  paper, figure 13, 6 and 7)
//	entries right after a snapshot are rejected:   #86, #205        install.go    TestAFollowerWhoseLogBeginsAfterItsSnapshot,    raft takes the term from the
//	the previous term is not taken from it                                        TestWhatASnapshotHasIsNotAskedOfTheLog          snapshot if the log lacks it
//	a delayed snapshot is installed over entries   none known       install.go    TestASnapshotThatComesLate                      raft rejects snapshots older
//	that were applied after it                                                                                                    than its applied index
//	a follower that was down gets no entries for   none known       reach.go      TestAFollowerThatComesBackCountsAtOnce,         a heartbeat that arrives ends
//	up to ten seconds                                                             TestNoCallIsHeldForEver                         the back-off
//	VerifyLeader counts responses to heartbeats    none known       verify.go     TestSchedulesFindBugs ("a leader counts         raft counts only responses to
//	that were sent before it was called                                           answers that are older")                        what it sent afterwards
//	followers learn of a commit with the next      by design        announce.go   TestWritesOnAnyMasterAreReadOnEveryOther,       never, unless raft sends a
//	entries, or after CommitTimeout                                               BenchmarkPropose (45 ms without)                commit index at once
//
// The tests that need a whole cluster are in package cluster. Issues are those of github.com/hashicorp/raft.
package raftfix
