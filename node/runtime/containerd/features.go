package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/runtime"
)

// Features implements runtime.Runtime.
func (r *Runtime) Features() runtime.Features { return r.features }

// hostFeatures determines the features of the kernel and of runc.
func hostFeatures(ctx context.Context, stateDir string) runtime.Features {
	f := runtime.Features{NoUserNamespaces: noUserNamespaces(stateDir)}
	if b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil && strings.HasPrefix(string(b), "Y") {
		// Like other runtimes: without the parser no profile can be loaded.
		_, err := os.Stat("/sbin/apparmor_parser")
		f.AppArmor = err == nil
	}
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil {
		f.SELinux = true
	}
	f.RecursiveReadOnly = hasMountSetattr() && knowsMountOption(ctx, "runc", "rro")
	return f
}

// hasMountSetattr says whether the kernel (5.12 or newer) can change the flags of a whole tree of mounts.
func hasMountSetattr() bool {
	err := unix.MountSetattr(-1, "", 0, &unix.MountAttr{})
	return !errors.Is(err, unix.ENOSYS)
}

// knowsMountOption says whether runc, or a program in its place, supports a mount option. Versions of runc before 1.1 cannot say, and ignore
// newer options.
func knowsMountOption(ctx context.Context, program, option string) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "features").Output()
	if err != nil {
		return false
	}
	var f struct {
		MountOptions []string `json:"mountOptions"`
	}
	return json.Unmarshal(out, &f) == nil && slices.Contains(f.MountOptions, option)
}

// bootID identifies the boot of the host: namespaces do not survive it.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}
