package containerd

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/internal/beneath"
)

func TestAccountsOfAnImage(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(root, passwd string) error
		want string
		err  error
	}{
		{"a file", func(_, p string) error { return os.WriteFile(p, []byte("x"), 0o644) }, "x", nil},
		{"nothing", func(string, string) error { return nil }, "", nil},
		{"a link as the image sees it", func(root, p string) error {
			return errors.Join(os.WriteFile(filepath.Join(root, "real"), []byte("y"), 0o644), os.Symlink("/real", p))
		}, "y", nil},
		{"a link to the host", func(_, p string) error { return os.Symlink("../../../../../../../etc/hostname", p) }, "", nil},
		{"a FIFO", func(_, p string) error { return unix.Mkfifo(p, 0o644) }, "", beneath.ErrNotRegular},
		{"an endless file", func(_, p string) error {
			return errors.Join(os.WriteFile(p, nil, 0o644), os.Truncate(p, 1<<40))
		}, "", beneath.ErrTooLarge},
	} {
		root := t.TempDir()
		if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := c.make(root, filepath.Join(root, "etc", "passwd")); err != nil {
			t.Fatal(err)
		}
		a, err := readAccounts(root)
		if string(a.passwd) != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %q, %v", c.name, a.passwd, err)
		}
	}
}

func TestLookupOfUsers(t *testing.T) {
	a := imageAccounts{passwd: []byte("root:x:0:0::/:/bin/sh\nweb:x:33:34::/:\n1000:x:0:0:named like a number:/:\n7:x:8:9::/:\n"), group: []byte("web:x:34:\nextra:x:50:web,other\n")}
	for _, c := range []struct {
		user, group string
		want        resolvedUser
		err         string
	}{
		{"", "", resolvedUser{}, ""},
		{"web", "", resolvedUser{uid: 33, gid: 34, groups: []uint32{50}}, ""},
		{"33", "", resolvedUser{uid: 33, gid: 34, groups: []uint32{50}}, ""},
		{"033", "", resolvedUser{uid: 33, gid: 34, groups: []uint32{50}}, ""},
		{"1000", "", resolvedUser{uid: 1000}, ""}, // not root, whatever an account's name is
		{"7", "", resolvedUser{uid: 7}, ""},
		{"web", "extra", resolvedUser{uid: 33, gid: 50, groups: []uint32{50}}, ""},
		{"nobody", "", resolvedUser{}, "unable to find user nobody"},
		{"4294967296", "", resolvedUser{}, "out of range"},
		{"4294967295", "", resolvedUser{}, "out of range"},
		{"2147483648", "", resolvedUser{}, "out of range"},
	} {
		got, err := lookupUser(a, c.user, c.group)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v", c.user, err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q %q: %+v, %v", c.user, c.group, got, err)
		}
	}
}
