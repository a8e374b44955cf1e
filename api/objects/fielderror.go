package objects

// FieldError says which field of a request an error is about, for fronts whose errors name it. Field is a path as Kubernetes
// writes it: in the object ("metadata.namespace"), or in what comes beside it ("resourceVersion", "preconditions.uid").
//
// REST answers the Status of Err, which is Kubernetes' to the letter and often names no field.
type FieldError struct {
	Field string
	Err   error
}

// Error implements error.
func (e *FieldError) Error() string { return e.Err.Error() }

// Unwrap answers the error itself, so that its Status is found.
func (e *FieldError) Unwrap() error { return e.Err }

// ObjectsName is the Field of errors about an operation's object as such, wherever the operation has its name.
const ObjectsName = "name"

// InField adds a field to an error; nil stays nil.
func InField(field string, err error) error {
	if err == nil {
		return nil
	}
	return &FieldError{field, err}
}
