package nodes

import (
	"context"
	"testing"
	"time"

	"github.com/kontiki/kontiki/api/client"
)

// A view that is read before a request has arrived says nothing about it.
func TestViewsForLeasesAreReadAfterTheRequest(t *testing.T) {
	reads, proceed := make(chan int, 10), make(chan struct{})
	count := 0
	f := &fresh{read: func(context.Context) (client.View, error) {
		count++
		reads <- count
		<-proceed
		return client.View{}, nil
	}}
	ask := func() chan error {
		done := make(chan error, 1)
		go func() {
			_, err := f.view(t.Context())
			done <- err
		}()
		return done
	}
	wait := func(what string, done chan error) error {
		t.Helper()
		select {
		case err := <-done:
			return err
		case <-time.After(30 * time.Second):
			t.Fatalf("%s is not answered", what)
			return nil
		}
	}
	first := ask()
	<-reads
	second, third := ask(), ask() // while the first read is running
	proceed <- struct{}{}
	if err := wait("the first", first); err != nil {
		t.Error(err)
	}
	<-reads
	select {
	case <-second:
		t.Error("answered by a read that had begun before")
	case <-third:
		t.Error("answered by a read that had begun before")
	default:
	}
	proceed <- struct{}{}
	// The second or the third may have asked after the second read began.
	go func() {
		for range reads {
			proceed <- struct{}{}
		}
	}()
	wait("the second", second)
	wait("the third", third)
	close(reads)
}
