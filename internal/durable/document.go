package durable

import (
	"encoding/json"
	"fmt"
	"os"
)

// Load reads the JSON document at a path. It returns fs.ErrNotExist if there is none.
func Load[T any](path string) (*T, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	document := new(T)
	if err := json.Unmarshal(data, document); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return document, nil
}

// Save replaces the JSON document at a path as WriteFile does, with mode 0600.
func Save(path string, document any) error {
	data, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return WriteFile(path, data, 0o600)
}
