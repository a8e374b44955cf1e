package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/kontiki/kontiki/scheduler/config"
)

// maxSchedulerConfig limits the file: a configuration has some kilobytes.
const maxSchedulerConfig = 1 << 20

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
	f, err := os.Open(c.file)
	if err != nil {
		return fmt.Errorf("--scheduler-config: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSchedulerConfig+1))
	if err == nil && len(data) > maxSchedulerConfig {
		err = fmt.Errorf("it has more than %d bytes", maxSchedulerConfig)
	}
	if err != nil {
		return fmt.Errorf("--scheduler-config %s: %w", c.file, err)
	}
	if c.Config, err = config.Parse(data); err != nil {
		return fmt.Errorf("--scheduler-config %s: %w", c.file, err)
	}
	digest := sha256.Sum256(data)
	c.digest = hex.EncodeToString(digest[:8])
	return nil
}
