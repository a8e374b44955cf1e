package consensus

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// batchTest runs senders whose batches are passed to calls and answered one by one; the result of each command is its own text.
type batchTest struct {
	*batches
	ctx   context.Context
	calls chan *batchCall
}

type batchCall struct {
	commands []string
	answer   chan struct{}
}

func startBatches(t *testing.T) *batchTest {
	ctx, cancel := context.WithCancel(t.Context())
	b := &batchTest{batches: newBatches(), ctx: ctx, calls: make(chan *batchCall, batchSenders)}
	for range batchSenders {
		go b.run(ctx, func(ctx context.Context, commands [][]byte) []attemptResult {
			call := &batchCall{answer: make(chan struct{})}
			outcomes := make([]attemptResult, len(commands))
			for i, c := range commands {
				call.commands = append(call.commands, string(c))
				outcomes[i] = attemptResult{state: clusterv1.Outcome_STATE_REFUSED, err: fmt.Errorf("%s", c)}
			}
			b.calls <- call
			select {
			case <-call.answer:
			case <-ctx.Done():
			}
			return outcomes
		})
	}
	t.Cleanup(cancel)
	return b
}

// proposeAll begins to propose commands, in this order.
func (b *batchTest) proposeAll(t *testing.T, commands ...string) {
	for _, command := range commands {
		go func() {
			if out := b.propose(context.Background(), []byte(command)); out.err == nil || out.err.Error() != command {
				t.Errorf("command %q was answered %v", command, out.err)
			}
		}()
		synctest.Wait()
	}
}

// sent are the batches that were sent and that the test has not taken yet.
func (b *batchTest) sent() (calls []*batchCall) {
	synctest.Wait()
	for {
		select {
		case call := <-b.calls:
			calls = append(calls, call)
		default:
			return calls
		}
	}
}

func (b *batchTest) next(t *testing.T, want ...string) *batchCall {
	t.Helper()
	call := <-b.calls
	if !slices.Equal(call.commands, want) {
		t.Fatalf("a batch of %q was sent, want %q", call.commands, want)
	}
	return call
}

func TestBatchesGatherWhileOneIsOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBatches(t)
		b.proposeAll(t, "a") // no time passes: it waits for nobody
		if calls := b.sent(); len(calls) != 1 {
			t.Fatalf("a lone proposal made %d calls", len(calls))
		} else {
			b.proposeAll(t, "b", "c", "d")
			if early := b.sent(); len(early) > 0 {
				t.Fatalf("%q was sent beside the batch before it", early[0].commands)
			}
			close(calls[0].answer)
		}
		close(b.next(t, "b", "c", "d").answer)
		synctest.Wait()
		b.proposeAll(t, "e") // the way is free again
		close(b.next(t, "e").answer)
	})
}

func TestBatchesDoNotWaitForSlowAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBatches(t)
		b.proposeAll(t, "a")
		first := b.next(t, "a")
		b.proposeAll(t, "b", "c")
		second := b.next(t, "b", "c") // by the clock
		b.proposeAll(t, "d")
		close(b.next(t, "d").answer)
		close(second.answer)
		close(first.answer)
		synctest.Wait()
		b.proposeAll(t, "e")
		if calls := b.sent(); len(calls) != 1 {
			t.Fatalf("a lone proposal made %d calls after all were answered", len(calls))
		} else {
			close(calls[0].answer)
		}
	})
}

func TestFullBatchesGoAtOnce(t *testing.T) {
	for name, full := range map[string][]string{
		"by commands": slices.Repeat([]string{"x"}, batchCommands),
		"by bytes":    {string(make([]byte, batchBytes-1)), "x"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := startBatches(t)
				b.proposeAll(t, "a")
				first := b.next(t, "a")
				b.proposeAll(t, full...)
				calls := b.sent()
				if len(calls) != 1 || !slices.Equal(calls[0].commands, full) {
					t.Fatalf("a full batch is not on its way: %d calls", len(calls))
				}
				close(calls[0].answer)
				close(first.answer)
			})
		})
	}
}

func TestProposalsEndWithTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBatches(t)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		b.proposeAll(t, "a")
		first := b.next(t, "a")
		// The command may have been put into a batch, or not.
		if out := b.propose(ended, []byte("b")); out.state != clusterv1.Outcome_STATE_REFUSED && out.state != clusterv1.Outcome_STATE_UNKNOWN {
			t.Errorf("a proposal whose context ended was answered %v", out.state)
		}
		close(first.answer)
		synctest.Wait()
		for _, call := range b.sent() {
			close(call.answer)
		}
	})
}
