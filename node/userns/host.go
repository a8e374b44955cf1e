package userns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"time"
)

// account is the user of the host whose subordinate ids are for pods, as with a kubelet.
const account = "kubelet"

// HostRange returns the range of ids that the host's administrator has set aside for pods: the subordinate ids of the user kubelet, as
// getsubids prints them. If there is no such user or no getsubids, it is DefaultRange.
func HostRange(ctx context.Context) (Range, error) {
	_, err := user.Lookup(account)
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		return DefaultRange, nil
	}
	if err != nil {
		return Range{}, err
	}
	program, err := exec.LookPath("getsubids")
	if errors.Is(err, exec.ErrNotFound) {
		return DefaultRange, nil
	}
	if err != nil {
		return Range{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	query := func(arguments ...string) (Range, error) {
		out, err := exec.CommandContext(ctx, program, arguments...).Output()
		if err != nil {
			return Range{}, fmt.Errorf("%s %s: %w", program, strings.Join(arguments, " "), err)
		}
		return parse(string(out))
	}
	users, err := query(account)
	if err != nil {
		return Range{}, err
	}
	groups, err := query("-g", account)
	if err != nil {
		return Range{}, err
	}
	if users != groups {
		return Range{}, fmt.Errorf("the subordinate ids of %s are different for users (%d from %d) and groups (%d from %d)", account, users.Length, users.First, groups.Length, groups.First)
	}
	return users, nil
}

// parse parses the output of getsubids, a line such as "0: kubelet 65536 7208960".
func parse(out string) (Range, error) {
	var lines []string
	for s := bufio.NewScanner(strings.NewReader(out)); s.Scan(); {
		if line := strings.TrimSpace(s.Text()); line != "" {
			lines = append(lines, line)
		}
	}
	if len(lines) != 1 {
		return Range{}, fmt.Errorf("the subordinate ids of %s: want one range, there are %d", account, len(lines))
	}
	parts := strings.Fields(lines[0])
	if len(parts) != 4 {
		return Range{}, fmt.Errorf("the subordinate ids of %s: getsubids printed %q", account, lines[0])
	}
	first, err := strconv.ParseUint(parts[2], 10, 32)
	if err != nil {
		return Range{}, fmt.Errorf("the subordinate ids of %s: %w", account, err)
	}
	length, err := strconv.ParseUint(parts[3], 10, 32)
	if err != nil {
		return Range{}, fmt.Errorf("the subordinate ids of %s: %w", account, err)
	}
	return Range{uint32(first), uint32(length)}, nil
}
