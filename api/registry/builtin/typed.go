package builtin

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The functions below convert typed functions to a row's untyped ones.

func checker[T runtime.Object](f func(T) field.ErrorList) func(context.Context, runtime.Object) field.ErrorList {
	return func(_ context.Context, obj runtime.Object) field.ErrorList { return f(obj.(T)) }
}

func changer[T runtime.Object](f func(obj, old T) field.ErrorList) func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	return func(_ context.Context, obj, old runtime.Object) field.ErrorList { return f(obj.(T), old.(T)) }
}

func warner[T runtime.Object](f func(ctx context.Context, obj T) []string) func(context.Context, runtime.Object) []string {
	return func(ctx context.Context, obj runtime.Object) []string { return f(ctx, obj.(T)) }
}

func changeWarner[T runtime.Object](f func(ctx context.Context, obj, old T) []string) func(ctx context.Context, obj, old runtime.Object) []string {
	return func(ctx context.Context, obj, old runtime.Object) []string { return f(ctx, obj.(T), old.(T)) }
}

func preparer[T runtime.Object](f func(T)) func(context.Context, runtime.Object) {
	return func(_ context.Context, obj runtime.Object) { f(obj.(T)) }
}

func updater[T runtime.Object](f func(obj, old T)) func(ctx context.Context, obj, old runtime.Object) {
	return func(_ context.Context, obj, old runtime.Object) { f(obj.(T), old.(T)) }
}
