package objects

// FieldError says which field of a request an error is about, for fronts whose errors name it. Field is a path in Kubernetes'
// notation: in the object ("metadata.namespace"), or in the options ("resourceVersion", "preconditions.uid").
//
// REST responds with the Status of Err, which is exactly Kubernetes' and often names no field.
type FieldError struct {
	Field string
	Err   error
}

// Error implements error.
func (e *FieldError) Error() string { return e.Err.Error() }

// Unwrap returns Err, so that its Status is found.
func (e *FieldError) Unwrap() error { return e.Err }

// ObjectsName is the Field of errors about the name of an operation's object, wherever the operation has that name.
const ObjectsName = "name"

// InField wraps an error with a field; it returns nil for nil.
func InField(field string, err error) error {
	if err == nil {
		return nil
	}
	return &FieldError{field, err}
}
