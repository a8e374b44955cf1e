// Package flow decides which requests the API serves at once, which ones wait and which ones are refused: API Priority and Fairness
// (KEP-1040), for both fronts together. Requests of controllers, the scheduler and the workers' sessions do not come through a
// front and are not limited.
//
// # Classification
//
// The FlowSchema with the lowest matchingPrecedence that matches a request selects its priority level (a
// PriorityLevelConfiguration); together with the request's distinguisher (its user or its namespace) it identifies the request's
// flow. A level is a share of the server's seats. One level, exempt, has no limit.
//
// # Shuffle sharding
//
// A level has a fixed number of queues, which bounds its memory whatever the number of flows. The hash of a flow selects a hand of a
// few queues, and each request joins the queue of its flow's hand that has the least work waiting. So a flow that fills all queues
// of its hand leaves nearly all other flows at least one queue that it does not fill. The hash is seeded at random in each process:
// nobody can choose names that collide with somebody else's.
//
// # Fair queuing
//
// Each queue gets an equal share of the level's seats, measured in seat-seconds: a request that occupies w seats for a duration s
// is w·s of work. The level has a progress meter R, the work that each active queue has been due so far. It grows at
//
//	dR/dt = min(seats that requests want, seats of the level) / number of active queues
//
// A queue has a reading of that meter at which its next request would be dispatched if all queues were served concurrently at an
// equal rate. The level dispatches the head of the queue for which dispatch reading plus work is the smallest. As the duration of a
// request is not known before it ends, it is estimated at dispatch, and the reading is corrected at the end. A reading that lies
// before the arrival of the queue's head is moved up to it, so that a queue that was not busy does not collect a claim for the past.
//
// # Widths
//
// A list occupies seats in proportion to the memory that its objects take. A write to objects that many clients watch occupies seats
// for a while after its response, in proportion to their number. Both follow upstream's estimators, except that there is no case of
// a list that is read from etcd: every list is read from memory and written item by item, which is upstream's cheaper case.
//
// A watch occupies its seats only until its initial events have been sent. A request gives its seats back while its client is slow,
// be it to send the body or to read the response (Seat.Leave may be called at any time): a slow client costs no one else anything.
//
// # Borrowing
//
// Every ten seconds the seats are divided anew: each level keeps at least what it does not lend and what it has just used of its own
// share, and gets at most its share and what it may borrow; between these bounds levels get seats in proportion to their demand,
// which decays slowly.
//
// A Control has no goroutine of its own apart from Run, and time comes from package time alone, so tests run in testing/synctest.
package flow
