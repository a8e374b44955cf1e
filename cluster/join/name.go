package join

import (
	"fmt"
	"regexp"
)

var namePattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

// CheckName returns an error if the name is not valid for a host.
func CheckName(name string) error {
	if len(name) > 63 || !namePattern.MatchString(name) {
		return fmt.Errorf("host name %q: use up to 63 lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit", name)
	}
	return nil
}
