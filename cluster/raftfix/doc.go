// Package raftfix works around defects of hashicorp/raft v1.8.0. It wraps raft's transport, log store and snapshot store (Wrap),
// and does beside raft what raft does too late or not strictly enough (Announcer, Verifier). Each part can be removed separately:
//
//	defect                                         upstream         here          shown by                                        delete when
//	a pipeline whose answers nobody reads gets     none known       transport.go  TestAPipelineWhoseAnswersNobodyReads            raft reads answers until a
//	stuck, and with it the shutdown                                                                                               pipeline is closed
//	a log that conflicts with a snapshot which     #697, #704       install.go    TestAFollowerWhoseLogConflictsWithASnapshot,    raft discards such a log (the
//	is installed over it is kept and believed in                                  TestWhatConflictsWithASnapshot                  paper, figure 13, 6 and 7)
//	a log that begins right after its snapshot     #86, #205        install.go    TestAFollowerWhoseLogBeginsAfterItsSnapshot,    raft compares with the snapshot
//	is refused: the snapshot is not compared                                      TestWhatASnapshotHasIsNotAskedOfTheLog          where the log does not reach
//	a snapshot that comes late is installed over   none known       install.go    TestASnapshotThatComesLate                      raft refuses snapshots of what
//	what was applied after it                                                                                                     it has applied
//	a follower that comes back gets no entries     none known       reach.go      TestAFollowerThatComesBackCountsAtOnce,         a heartbeat that arrives ends
//	for up to ten seconds                                                         TestNoCallIsHeldForEver                         the back-off
//	VerifyLeader counts answers to heartbeats      none known       verify.go     TestSchedulesFindBugs ("a leader counts         raft counts only answers to
//	that were sent before it was asked                                            answers that are older")                        what it sent afterwards
//	followers learn of a commit with the next      by design        announce.go   TestWritesOnAnyMasterAreReadOnEveryOther,       never, unless raft tells of
//	entries, or after CommitTimeout                                               BenchmarkPropose (45 ms without)                commits by itself
//
// The tests that need a whole cluster are in package cluster. Issues are those of github.com/hashicorp/raft.
package raftfix
