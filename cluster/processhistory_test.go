package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/robustness/history"
)

// childAsk and childTold are one operation of a history on a master in a process of its own.
type childAsk struct {
	Ops   []kv.Op // nil for a read
	Bound time.Duration
}

type childTold struct {
	Values    [history.Keys]string
	Revisions [history.Keys]uint64
	Result    kv.Result
	Refused   bool // certainly not done
	Full      bool // because disks are full
}

// childWatch is a watch on a master in a process of its own.
type childWatch struct {
	After uint64
	Bound time.Duration
}

func (c *Cluster) serveAsk(ctx context.Context, text string, a *childAnswer) error {
	var ask childAsk
	if err := json.Unmarshal([]byte(text), &ask); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, ask.Bound)
	defer cancel()
	var out childTold
	if ask.Ops == nil {
		b, err := history.InProcess{Master: c, Store: c.store}.Read(ctx)
		if err != nil {
			return err
		}
		for i, have := range b {
			out.Values[i], out.Revisions[i] = have.Value, have.Revision
		}
	} else {
		var err error
		out.Result, err = history.InProcess{Master: c, Store: c.store}.Transact(ctx, ask.Ops)
		if out.Refused = errors.Is(err, kv.ErrNoLeader) || errors.Is(err, kv.ErrDiskFull); err != nil && !out.Refused {
			return err
		}
		out.Full = errors.Is(err, kv.ErrDiskFull)
	}
	data, err := json.Marshal(out)
	a.Value = string(data)
	return err
}

func (c *Cluster) serveWatch(ctx context.Context, text string, a *childAnswer) error {
	var ask childWatch
	if err := json.Unmarshal([]byte(text), &ask); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, ask.Bound)
	defer cancel()
	told, err := history.InProcess{Master: c, Store: c.store}.Watch(ctx, ask.After)
	if err != nil {
		return err
	}
	data, err := json.Marshal(told)
	a.Value = string(data)
	return err
}

// inChild is a master of another process.
type inChild struct{ c *child }

func (p inChild) ask(ctx context.Context, ops []kv.Op) (out childTold, err error) {
	bound := time.Second
	if deadline, ok := ctx.Deadline(); ok {
		bound = time.Until(deadline)
	}
	text, err := json.Marshal(childAsk{Ops: ops, Bound: bound})
	if err != nil {
		return out, err
	}
	done, exited := p.c.begin("ask", "", string(text))
	select {
	case a := <-done:
		if a.Error != "" {
			return out, errors.New(a.Error)
		}
		return out, json.Unmarshal([]byte(a.Value), &out)
	case <-exited:
		return out, errors.New("the process is gone")
	case <-ctx.Done(): // it stands still, or its disk does
		return out, ctx.Err()
	}
}

func (p inChild) Read(ctx context.Context) (b history.Bank, err error) {
	out, err := p.ask(ctx, nil)
	for i := range b {
		b[i] = history.Cell{Value: out.Values[i], Revision: out.Revisions[i]}
	}
	return b, err
}

func (p inChild) Transact(ctx context.Context, ops []kv.Op) (kv.Result, error) {
	out, err := p.ask(ctx, ops)
	switch {
	case err == nil && out.Full:
		err = kv.ErrDiskFull
	case err == nil && out.Refused:
		err = kv.ErrNoLeader
	}
	return out.Result, err
}

// watch implements watchSource. What a process tells is told when the watch ends; if it dies first, nothing was.
func (p inChild) Watch(ctx context.Context, after uint64) (told history.Watched, err error) {
	bound := time.Second
	if deadline, ok := ctx.Deadline(); ok {
		bound = max(time.Until(deadline), time.Millisecond)
	}
	text, err := json.Marshal(childWatch{After: after, Bound: bound})
	if err != nil {
		return told, err
	}
	done, exited := p.c.begin("watch", "", string(text))
	timer := time.NewTimer(bound + time.Second) // it stands still, perhaps
	defer timer.Stop()
	select {
	case a := <-done:
		if a.Error != "" {
			return told, errors.New(a.Error)
		}
		return told, json.Unmarshal([]byte(a.Value), &told)
	case <-exited:
	case <-timer.C:
	}
	return told, history.ErrAway
}
