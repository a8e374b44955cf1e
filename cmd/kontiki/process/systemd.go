package process

import (
	"log/slog"

	"github.com/coreos/go-systemd/v22/daemon"
)

// TellSystemd tells systemd the state of this process by the protocol of sd_notify(3), if systemd has started it as a unit of Type=notify.
// Otherwise it does nothing.
func TellSystemd(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd cannot be told of this process's state", "state", state, "err", err)
	}
}
