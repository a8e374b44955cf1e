package controllertest

import (
	"context"
	"reflect"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/client"
)

// newOf returns an empty object of a pointer type.
func newOf[T client.Object](T) client.Object {
	return reflect.New(reflect.TypeFor[T]().Elem()).Interface().(client.Object)
}

func changeWith[T client.Object](t testing.TB, c *client.Client, namespace, name string, change func(T), write func(context.Context, *client.Client, T) (T, error)) T {
	t.Helper()
	for {
		stored, ok := client.Get[T](c.View(), namespace, name)
		if !ok {
			t.Fatalf("%s/%s does not exist", namespace, name)
		}
		obj := stored.DeepCopyObject().(T)
		change(obj)
		changed, err := write(context.Background(), c, obj)
		if err == nil {
			return changed
		}
		if !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
	}
}
