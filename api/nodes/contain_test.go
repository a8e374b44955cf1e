package nodes

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A panic in any part of a session ends this session, and nothing else.
func TestAPanicEndsTheSessionAlone(t *testing.T) {
	s := &session{Server: quietServer(Config{}), node: "w1", log: quietServer(Config{}).Log, stream: &sink{}}
	err := s.contained(context.Background(), func(context.Context) error {
		panic("what a worker sent")
	})
	if status.Code(err) != codes.Internal {
		t.Errorf("ended with %v", err)
	}
}

func TestTheCensusForgets(t *testing.T) {
	c := NewCensus(CensusConfig{})
	c.replace("m:1", map[string]State{"here": Connected, "gone": Connected})
	c.update("m:1", map[string]State{"gone": Gone})
	c.forget(time.Now().Add(time.Second))
	if _, ok := c.Worker("gone"); !ok {
		t.Error("what nobody was told of yet is forgotten")
	}
	for range 2 {
		if _, err := c.Next(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	c.forget(time.Now().Add(-time.Hour))
	if _, ok := c.Worker("gone"); !ok {
		t.Error("it is forgotten too early")
	}
	c.forget(time.Now().Add(time.Second))
	if all := c.Workers(); len(all) != 1 || all[0].Name != "here" {
		t.Errorf("remembered: %v", all)
	}
}
