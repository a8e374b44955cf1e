package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/volume/mounts"
)

// TestFileSystemsOfADriverGrow while pods use them, and the masters are told each step.
func TestFileSystemsOfADriverGrow(t *testing.T) {
	n, pod := newCSINode(t, unattached, notAttached())
	setup(t, n.m, pod)
	n.steps()
	grow := func(size int64, state corev1.ClaimResourceStatus) {
		pv, claim := n.shelf.volumes["pv"].DeepCopy(), n.claims["data"].DeepCopy()
		pv.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(size, resource.BinarySI)}
		claim.Spec.Resources.Requests = pv.Spec.Capacity
		claim.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{corev1.ResourceStorage: state}
		n.shelf.volumes["pv"], n.claims["data"] = pv, claim
		setup(t, n.m, pod)
	}
	told := func(steps, expansions, events string) {
		t.Helper()
		n.mu.Lock()
		defer n.mu.Unlock()
		if got := n.steps(); got != steps {
			t.Errorf("the driver was told %q, want %q", got, steps)
		}
		if got := strings.Join(n.expansions, ", "); got != expansions {
			t.Errorf("the masters were told %q, want %q", got, expansions)
		}
		if got := strings.Join(n.events, ", "); got != events {
			t.Errorf("the events are %q, want %q", got, events)
		}
		n.expansions, n.events = nil, nil
	}
	grow(2*gib, "") // the controller has not finished
	told("", "", "")
	grow(2*gib, corev1.PersistentVolumeClaimControllerResizeInProgress)
	told("", "", "")
	grow(2*gib, corev1.PersistentVolumeClaimNodeResizePending)
	told("Expand", "BEGUN 2Gi, FINISHED 2Gi", "pod Normal FileSystemResizeSuccessful")
	grow(2*gib, corev1.PersistentVolumeClaimNodeResizeInProgress) // what is known of the claim is old
	told("", "", "")
	n.driver.Fail(&csi.NodeExpandVolumeRequest{}, status.Error(codes.OutOfRange, "too large"))
	grow(3*gib, corev1.PersistentVolumeClaimNodeResizePending)
	told("Expand", "BEGUN 3Gi, INFEASIBLE 3Gi", "pod Warning VolumeResizeFailed")
	n.driver.Fail(&csi.NodeExpandVolumeRequest{}, nil)

	// A volume that grew while no pod used it.
	tearDown(t, n.m, "uid")
	n.steps()
	grow(4*gib, corev1.PersistentVolumeClaimNodeResizePending)
	told("Stage Publish Expand", "BEGUN 4Gi, FINISHED 4Gi", "pod Normal FileSystemResizeSuccessful")
	usage := n.m.Usage(context.Background(), "uid")
	if len(usage) != 1 || usage[0].Volume != "v" || usage[0].Claim != "data" || usage[0].Bytes.Used != 4096 || usage[0].Inodes.Total != 100 {
		t.Errorf("the usage is %+v", usage)
	}
	// A driver that fails is asked again after a minute only.
	later := time.Now()
	n.m.csi.Now = func() time.Time { return later }
	for _, step := range []struct {
		err   error
		after time.Duration
		known int
	}{{status.Error(codes.Internal, "not now"), 2 * time.Minute, 0}, {nil, 0, 0}, {nil, 2 * time.Minute, 1}} {
		n.driver.Fail(&csi.NodeGetVolumeStatsRequest{}, step.err)
		later = later.Add(step.after)
		if usage := n.m.Usage(context.Background(), "uid"); len(usage) != step.known {
			t.Errorf("%+v: the usage is %+v", step, usage)
		}
	}
	tearDown(t, n.m, "uid")
	n.clean()
}

// TestVolumesArePublishedAgain for a driver that wants that, with tokens that are valid.
func TestVolumesArePublishedAgain(t *testing.T) {
	n, pod := newCSINode(t, unattached, &storagev1.CSIDriverSpec{AttachRequired: new(false), RequiresRepublish: new(true)})
	setup(t, n.m, pod)
	setup(t, n.m, pod) // it is not due
	if got := n.steps(); got != "Stage Publish" {
		t.Errorf("the driver was told %s", got)
	}
	n.restart() // it is not known when it was
	setup(t, n.m, pod)
	if got := n.steps(); got != "Publish" {
		t.Errorf("after a restart the driver was told %s", got)
	}
	n.m.csi.Now = func() time.Time { return time.Now().Add(time.Minute) }
	n.driver.Fail(&csi.NodePublishVolumeRequest{}, status.Error(codes.Internal, "not now"))
	if dir := setup(t, n.m, pod); !mounts.At(dir) {
		t.Error("a failure has unmounted it")
	}
	if got := n.steps(); got != "Publish" {
		t.Errorf("when it was due the driver was told %s", got)
	}
	tearDown(t, n.m, "uid")
	n.clean()
}

// TestPodsOfOneVolumeComeAndGoTogether: none loses the volume because another one ends.
func TestPodsOfOneVolumeComeAndGoTogether(t *testing.T) {
	n, pod := newCSINode(t, unattached, notAttached())
	n.shelf.volumes["pv"].Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			mine := pod.DeepCopy()
			mine.UID, mine.Name = types.UID(fmt.Sprint("uid-", i)), fmt.Sprint("p", i)
			for round := range 10 {
				paths, err := n.m.Setup(context.Background(), mine, "", nil)
				if err != nil {
					t.Error(err)
					return
				}
				// What is written is in the driver's store: the folder is the volume, not what is below it.
				name := fmt.Sprint(i, "-", round)
				if err := os.WriteFile(filepath.Join(paths["v"], name), nil, 0o600); err != nil {
					t.Error(err)
				}
				if _, err := os.Stat(filepath.Join(n.options.Dir, "volumes", n.shelf.volumes["pv"].Spec.CSI.VolumeHandle, "data", name)); err != nil {
					t.Error(err)
				}
				if err := n.m.TearDown(context.Background(), string(mine.UID)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	n.clean()
}
