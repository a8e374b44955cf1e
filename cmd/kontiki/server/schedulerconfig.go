package server

import (
	"fmt"

	"github.com/kontiki/kontiki/scheduler/config"
)

// schedulerConfig is the value of --scheduler-config.
type schedulerConfig struct {
	file string
	*config.Config
	digest string // "" without a file
}

// read reads and validates the file.
func (c *schedulerConfig) read() error {
	if c.file == "" {
		c.Config = config.Default()
		return nil
	}
	var err error
	if c.Config, c.digest, err = config.ReadFile(c.file); err != nil {
		return fmt.Errorf("--scheduler-config: %w", err)
	}
	return nil
}
