package broadcast

import "testing"

func TestEverybodyWhoWaitsIsTold(t *testing.T) {
	var s Signal
	s.Tell() // nobody waits
	first, second := s.Next(), s.Next()
	select {
	case <-first:
		t.Fatal("a signal of before counts")
	default:
	}
	s.Tell()
	<-first
	<-second
	select {
	case <-s.Next():
		t.Fatal("a signal counts twice")
	default:
	}
}

func TestAPokeIsNotLostAndNeverBlocks(t *testing.T) {
	c := make(chan struct{}, 1)
	Poke(c)
	Poke(c)
	<-c
	select {
	case <-c:
		t.Error("two pokes woke twice")
	default:
	}
}
