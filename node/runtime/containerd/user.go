package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/internal/beneath"
	"github.com/kontiki/kontiki/node/runtime"
)

// resolvedUser is the user that a container runs as.
type resolvedUser struct {
	uid, gid uint32
	groups   []uint32
}

// imageAccounts are an image's /etc/passwd and /etc/group. Images never change, so files of usual size are cached.
type imageAccounts struct{ passwd, group []byte }

const (
	maxAccounts       = 4 << 20 // bytes of an image's passwd or group file
	maxCachedAccounts = 64 << 10
)

// resolveUser determines user, group and groups from the security context, the image's user, and the image's accounts.
func (r *Runtime) resolveUser(ctx context.Context, img client.Image, imageUser string, s runtime.Security) (resolvedUser, error) {
	spec := imageUser
	if s.RunAsUser != nil {
		spec = strconv.FormatInt(*s.RunAsUser, 10)
		// As the CRI specifies it: a user from the security context gets its group from the image's accounts, not from the image's
		// user.
	}
	name, group, _ := strings.Cut(spec, ":")
	if s.RunAsNonRoot && s.RunAsUser == nil {
		if name == "" {
			return resolvedUser{}, runtime.ErrRunAsRoot
		}
		uid, err := strconv.ParseInt(name, 10, 64)
		if err != nil {
			return resolvedUser{}, runtime.NonRootUnknown{User: name}
		}
		if uid == 0 {
			return resolvedUser{}, runtime.ErrRunAsRoot
		}
	}
	a, err := r.accounts(ctx, img)
	if err != nil {
		return resolvedUser{}, err
	}
	u, err := lookupUser(a, name, group)
	if err != nil {
		return resolvedUser{}, err
	}
	if s.RunAsNonRoot && u.uid == 0 { // however it was determined
		return resolvedUser{}, runtime.ErrRunAsRoot
	}
	if s.RunAsGroup != nil {
		u.gid = uint32(*s.RunAsGroup)
	}
	if s.StrictGroups {
		u.groups = nil
	}
	// The primary group is also one of the groups, as after a login.
	groups := []uint32{u.gid}
	for _, g := range u.groups {
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	for _, g := range s.SupplementalGroups {
		if !slices.Contains(groups, uint32(g)) {
			groups = append(groups, uint32(g))
		}
	}
	u.groups = groups
	return u, nil
}

// lookupUser resolves "name or number" and an optional group with an image's accounts.
func lookupUser(a imageAccounts, user, group string) (resolvedUser, error) {
	var u resolvedUser
	if user == "" {
		user = "0"
	}
	// A number is an id, even if an account has that name. Ids of more than 31 bits are refused: in places with smaller integers
	// they would be truncated to 0.
	n, numErr := strconv.ParseUint(user, 10, 31)
	if errors.Is(numErr, strconv.ErrRange) {
		return u, fmt.Errorf("user id %s is out of range", user)
	}
	name := ""
	found := false
	for f := range entries(a.passwd) {
		if len(f) < 4 || numErr != nil && f[0] != user || numErr == nil && f[2] != strconv.FormatUint(n, 10) {
			continue
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 == nil && err2 == nil {
			u.uid, u.gid, name, found = uint32(uid), uint32(gid), f[0], true
			break
		}
	}
	if !found {
		if numErr != nil {
			return u, fmt.Errorf("unable to find user %s: no matching entries in passwd file", user)
		}
		u.uid = uint32(n)
	}
	if group != "" {
		gid, err := strconv.ParseUint(group, 10, 32)
		if err != nil {
			ok := false
			for f := range entries(a.group) {
				if len(f) >= 3 && f[0] == group {
					if gid, err = strconv.ParseUint(f[2], 10, 32); err == nil {
						ok = true
						break
					}
				}
			}
			if !ok {
				return u, fmt.Errorf("unable to find group %s: no matching entries in group file", group)
			}
		}
		u.gid = uint32(gid)
	}
	if name != "" {
		for f := range entries(a.group) {
			if len(f) >= 4 && slices.Contains(strings.Split(f[3], ","), name) {
				if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
					u.groups = append(u.groups, uint32(gid))
				}
			}
		}
	}
	return u, nil
}

// entries yields the fields of each line of a passwd or group file.
func entries(b []byte) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range strings.Lines(string(b)) {
			line = strings.TrimSpace(line)
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if !yield(strings.Split(line, ":")) {
				return
			}
		}
	}
}

func (r *Runtime) accounts(ctx context.Context, img client.Image) (imageAccounts, error) {
	diffs, err := img.RootFS(ctx)
	if err != nil {
		return imageAccounts{}, err
	}
	chain := identity.ChainID(diffs).String()
	if a, ok := r.accountCache.Load(chain); ok {
		return a.(imageAccounts), nil
	}
	var a imageAccounts
	sn := r.client.SnapshotService(r.c.Snapshotter)
	key := "kontiki-accounts-" + newID()[:16]
	mounts, err := sn.View(ctx, key, chain)
	if err != nil {
		return a, fmt.Errorf("view of image: %w", err)
	}
	defer sn.Remove(context.WithoutCancel(ctx), key)
	err = mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
		a, err = readAccounts(root)
		return err
	})
	if err != nil {
		return a, fmt.Errorf("read image's accounts: %w", err)
	}
	if len(a.passwd)+len(a.group) <= maxCachedAccounts {
		r.accountCache.Store(chain, a)
	}
	return a, nil
}

// readAccounts reads the accounts below the root of an image, which is not trusted: links cannot lead out of the root, and a FIFO
// or an endless file is an error.
func readAccounts(root string) (a imageAccounts, err error) {
	for name, into := range map[string]*[]byte{"passwd": &a.passwd, "group": &a.group} {
		b, err := beneath.ReadFile(root, filepath.Join("etc", name), beneath.AsRoot, maxAccounts)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return imageAccounts{}, err
		}
		*into = b
	}
	return a, nil
}
