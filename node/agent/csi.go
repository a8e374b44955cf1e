package agent

import (
	"context"

	registration1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/kontiki/kontiki/node/csi"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// csiDrivers makes the node's CSI drivers the handler of their plugins; nil without a kubelet's folder.
func (a *Agent) csiDrivers() *csi.Drivers {
	if a.c.Kubelet == nil {
		return nil
	}
	a.csi = csi.New(csi.Config{Root: a.c.Kubelet, Report: a.reportDriver, Changed: func() { a.pods.Retry() }})
	a.plugins[registration1.CSIPlugin] = a.csi
	return a.csi
}

// inUseChanged reports which attached volumes are in use.
func (a *Agent) inUseChanged() {
	if a.node.useChanged() {
		a.out.nodeChanged()
	}
}

// reportDriver reports a CSI driver to the session's master.
func (a *Agent) reportDriver(ctx context.Context, r *nodev1.ReportDriverRequest) (*nodev1.ReportDriverResponse, error) {
	c, err := a.master()
	if err != nil {
		return nil, err
	}
	return c.ReportDriver(ctx, r)
}

// reportExpansion reports the expansion of a volume to the session's master.
func (a *Agent) reportExpansion(ctx context.Context, r *nodev1.ReportExpansionRequest) error {
	c, err := a.master()
	if err != nil {
		return err
	}
	_, err = c.ReportExpansion(ctx, r)
	return err
}
